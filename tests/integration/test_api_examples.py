"""The examples in docs/api.md are true: each is sent to a service, which returns what the page shows."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from skilder.keys.v1.authorization_service_pb2 import DENIAL_REASON_SOURCE_NOT_ALLOWED
from tests.docs import examples
from tests.docs.examples import as_json
from tests.docs.json_page import as_browsers_get_it, response_type
from tests.docs.json_page import responses as json_page
from tests.support.activity_facts import Fact, insert_facts
from tests.support.calls import LASTING, METHODS, call, request_type
from tests.support.grpcurl import grpcurl, required
from tests.support.service import TOKENS
from tests.support.sql import connected
from tests.support.stubs import LANGUAGES
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from google.protobuf.message import Message

    from tests.docs.examples import Example
    from tests.support.service import Client, Service

    Send = Callable[[str, Any, str], Awaitable[Any]]

EXAMPLES = examples.load()
FIRST_OF_ACTIVITY = next(each for each in EXAMPLES.calls if each.method.startswith("ActivityService/"))


class Values:
    """The values of this run that replace the samples of the examples."""

    def __init__(self) -> None:
        self._by_sample: dict[str, str] = {}

    def put(self, shown: Any) -> Any:
        """Return a part of an example with the values of this run instead of the samples."""
        match shown:
            case dict():
                return {name: self.put(value) for name, value in shown.items()}
            case list():
                return [self.put(value) for value in shown]
            case str():
                return self._by_sample.get(shown, shown)
            case _:
                return shown

    def learn(self, shown: Any, found: Any) -> None:
        """Record the values in a response for those samples that are not known yet."""
        match shown, found:
            case dict(), dict():
                for name in shown.keys() & found.keys():
                    self.learn(shown[name], found[name])
            case list(), list():
                for one, other in zip(shown, found, strict=False):
                    self.learn(one, other)
            case str(), str() if shown in EXAMPLES.samples:
                assert len(shown) == len(found) or re.match(r'"?\d{4}-', shown), f"{shown} is not like {found}"
                self._by_sample.setdefault(shown, found)
            case _:
                pass


async def client(service: Service, bearer: str) -> Client:
    """Return the client that sends an example."""
    return await service.client(bearer) if bearer else service.operator


async def write_activity(service: Service, key_id: str) -> None:
    """Write what the examples show that a key was used for. Its real uses are counted some seconds later."""
    minute = int(datetime.now(UTC).timestamp()) // 60 - 2
    used = Fact(minute, UUID(key_id), "slack.history", "gateway", 0, 42, 3_204, 57_918, "198.51.100.7")
    denied = DENIAL_REASON_SOURCE_NOT_ALLOWED
    refused = Fact(minute, UUID(key_id), "slack.history", "gateway", denied, 3, 41_337, 44_002, "203.0.113.9")
    async with connected(service.database_url) as sql:
        await insert_facts(sql, [used, refused])


async def send_all(service: Service, send: Send) -> None:
    """Send each example, with its own bearer token if it has one, and compare its response."""
    values = Values()
    for example in EXAMPLES.calls:
        if example is FIRST_OF_ACTIVITY:
            await write_activity(service, values.put(example.request["filter"]["key_id"]))
        found = await send(example.method, values.put(example.request), values.put(example.bearer))
        values.learn(example.response, found)
        # As text, so that the order of the fields counts too.
        assert as_json(values.put(example.response)) == as_json(found), example.method
    assert set(values.put(sorted(EXAMPLES.samples))).isdisjoint(EXAMPLES.samples), "a sample is in no response"


def test_every_method_has_an_example() -> None:
    """And every example is of a method."""
    assert {example.method for example in EXAMPLES.calls} == set(METHODS)


@pytest.mark.parametrize("example", EXAMPLES.calls, ids=lambda each: each.method)
def test_an_example_has_the_fields_of_its_messages(example: Example) -> None:
    """It has no other names, and values of the right types."""
    assert ParseDict(example.request, request_type(example.method)()).ByteSize() > 0
    assert ParseDict(example.response, response_type(example.method)()).ByteSize() > 0


async def test_the_examples_are_true(empty_service: Service) -> None:
    """When the Python stubs send them."""

    async def send(method: str, request: Any, bearer: str) -> Any:
        message = ParseDict(request, request_type(method)())
        body = await call(await client(empty_service, bearer), method, message)
        return MessageToDict(response_type(method).FromString(body), preserving_proto_field_name=True)

    await send_all(empty_service, send)


def as_grpcurl_takes_it(method: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return a request with each mask as a message, as docs/json.md says; its form of one text is refused."""
    masks = {
        field.name
        for field in METHODS[method].input_type.fields
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask"
    }
    return {name: {"paths": value.split(",")} if name in masks else value for name, value in request.items()}


async def test_grpcurl_shows_the_examples(empty_service: Service) -> None:
    """Field by field, in the same order."""
    required()

    async def send(method: str, request: Any, bearer: str) -> Any:
        body = json.dumps(as_grpcurl_takes_it(method, request))
        empty_service.watch.seen |= set(re.findall(r"(?:WSK|RTK)_\w{71}", body + bearer))
        seconds = 3 if method in LASTING else None
        output = await asyncio.to_thread(
            grpcurl, empty_service.address, method, body, bearer or TOKENS["operator"], seconds
        )
        first, _ = json.JSONDecoder().raw_decode(output)
        return first

    await send_all(empty_service, send)


def leaves(message: Message, shown: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each field of a message that is no message of the contract, with each of its values in JSON."""
    by_name = {field.json_name: field for field in message.DESCRIPTOR.fields}
    assert set(shown) <= set(by_name), "a name is not in lowerCamelCase"
    for name, value in shown.items():
        field = by_name[name]
        found = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            assert set(value) == set(found), "a key of a map was changed"
            pairs = [(found[key], each) for key, each in value.items()]
            field = field.message_type.fields_by_name["value"]
        else:
            pairs = list(zip(found, value, strict=True)) if field.is_repeated else [(found, value)]
        for inner, each in pairs:
            if isinstance(each, dict):
                yield from leaves(inner, each)
            else:
                yield field, each


def assert_a_browser_can_use(message: Message, shown: Any) -> None:
    """Fail if a value has a form that JavaScript would change, or that people cannot read."""
    for field, value in leaves(message, shown):
        if field.cpp_type in {field.CPPTYPE_INT64, field.CPPTYPE_UINT64}:
            assert re.fullmatch(r"-?\d+", value)
            assert field.GetOptions().jstype == field.GetOptions().JS_STRING
        elif field.type == field.TYPE_ENUM:
            assert value in field.enum_type.values_by_name
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration":
            assert re.fullmatch(r"-?\d+(\.\d{3}|\.\d{6}|\.\d{9})?s", value)
        elif field.message_type is not None:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6}|\.\d{9})?Z", value)


@ONLY_GRPCIO
async def test_responses_have_the_form_that_a_browser_wants(empty_service: Service) -> None:
    """Those of real calls, of every method; and TypeScript writes them as Python does."""
    typescript = LANGUAGES["typescript"]
    folder = await asyncio.to_thread(typescript.built)
    found: list[tuple[str, Message]] = []

    async def send(method: str, request: Any, bearer: str) -> Any:
        message = ParseDict(request, request_type(method)())
        body = await call(await client(empty_service, bearer), method, message)
        found.append((method, response_type(method).FromString(body)))
        return MessageToDict(found[-1][1], preserving_proto_field_name=True)

    await send_all(empty_service, send)
    lines = "".join(
        f"{message.DESCRIPTOR.full_name} {base64.b64encode(message.SerializeToString()).decode()}\n"
        for _, message in found
    )
    command = typescript.run(folder, "json")
    done = await asyncio.to_thread(
        subprocess.run, command, input=lines, capture_output=True, text=True, timeout=60, check=True
    )
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert shown == [as_browsers_get_it(message) for _, message in found]
    for (method, message), each in zip(found, shown, strict=True):
        assert_a_browser_can_use(message, each)
        assert bool(re.search(r"(WSK|USK|RTK)_\w{71}", json.dumps(each))) is (
            method.endswith(("IssueKey", "RotateKey", "RotateOwnKey"))
        )


def test_the_page_has_a_response_of_every_method() -> None:
    """As the service sends it: the page is made from the examples, which other tests send."""
    assert dict(json_page()).keys() == METHODS.keys()
