"""The examples in docs/api.md are true: each is sent to a service, which returns what the page shows."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import message_factory
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.docs import examples
from tests.docs.examples import as_json
from tests.support.calls import METHODS, call, request_type
from tests.support.grpcurl import grpcurl, required
from tests.support.service import TOKENS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.docs.examples import Example
    from tests.support.service import Service

    Send = Callable[[str, Any], Awaitable[Any]]

EXAMPLES = examples.load()


def response_type(method: str) -> Any:
    """Return the class of a method's responses."""
    return message_factory.GetMessageClass(METHODS[method].output_type)


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
                assert len(shown) == len(found) or re.match(r"\d{4}-", shown), f"{shown} is not like {found}"
                self._by_sample.setdefault(shown, found)
            case _:
                pass


async def send_all(send: Send) -> None:
    """Send each example and compare its response."""
    values = Values()
    for example in EXAMPLES.calls:
        found = await send(example.method, values.put(example.request))
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

    async def send(method: str, request: Any) -> Any:
        message = ParseDict(request, request_type(method)())
        body = await call(empty_service.operator, method, message)
        return MessageToDict(response_type(method).FromString(body), preserving_proto_field_name=True)

    await send_all(send)


async def test_grpcurl_shows_the_examples(empty_service: Service) -> None:
    """Field by field, in the same order."""
    required()

    async def send(method: str, request: Any) -> Any:
        body = json.dumps(request)
        empty_service.watch.seen |= set(re.findall(r"WSK_\w{71}", body))
        output = await asyncio.to_thread(grpcurl, empty_service.address, method, body, TOKENS["operator"])
        return json.loads(output)

    await send_all(send)
