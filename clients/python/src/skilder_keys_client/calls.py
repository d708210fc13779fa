"""What the methods of a client send, and what they make of the responses, without a network.

A method is a generator: it yields the calls to make, is sent their responses, and returns its result. `Client` makes
the calls one way and `AsyncClient` another.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from skilder_keys_client.decisions import MALFORMED, Decision, Denied, Granted, decide, denial
from skilder_keys_client.errors import ServiceError
from skilder_keys_client.issued import IssuedKey
from skilder_keys_client.v1 import (
    activity_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    catalog_service_pb2,
    key_service_pb2,
    runtime_service_pb2,
)
from skilder_keys_client.v1.authorization_service_pb2 import (
    AuthorizeRequest,
    AuthorizeResponse,
    BatchAuthorizeRequest,
    BatchAuthorizeResponse,
    ReadToolSetRequest,
    ReadToolSetResponse,
    ToolSet,
)
from skilder_keys_client.v1.key_service_pb2 import IssueKeyRequest, RotateKeyRequest

if TYPE_CHECKING:
    from skilder_keys_client.queries import Query

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the service.

    Attributes:
        path: Such as `/skilder.keys.v1.KeyService/GetKey`.
        response: The class of its responses.
        streams: Whether it has a stream of responses.
    """

    path: str
    response: type[Message]
    streams: bool


def _methods() -> dict[str, Method]:
    """Return all methods by the full names of their requests. No two methods have the same."""
    found = {}
    for module in (
        activity_service_pb2,
        audit_service_pb2,
        authorization_service_pb2,
        catalog_service_pb2,
        key_service_pb2,
        runtime_service_pb2,
    ):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                response = message_factory.GetMessageClass(method.output_type)
                path = f"/{service.full_name}/{method.name}"
                found[method.input_type.full_name] = Method(path, response, method.server_streaming)
    return found


METHODS = _methods()


def method_of(request: Message) -> Method:
    """Return the method that has a request.

    Raises:
        TypeError: It is not a request of the service.
    """
    if (method := METHODS.get(request.DESCRIPTOR.full_name)) is None:
        raise TypeError(f"{request.DESCRIPTOR.full_name} is not a request")
    return method


Calls = Generator[Message, Any, Result]
"""Requests to send. For each, the response is sent back: a message, or a list of them if the method streams."""


def authorize(query: Query) -> Calls[Decision]:
    """Decide about a token."""
    if not query.is_sendable():
        return MALFORMED
    request = _request(query)
    response: AuthorizeResponse = yield request
    return decide(request, response)


def read_tool_set(query: Query) -> Calls[ToolSet | Denied]:
    """Read everything that a token reaches, however large it is."""
    if not query.is_sendable():
        return MALFORMED
    parts: list[ReadToolSetResponse] = yield ReadToolSetRequest(request=_request(query))
    whole = ToolSet()
    for part in parts:
        match part.WhichOneof("part"):
            case "denied":
                return denial(part.denied)
            case "tool_set" if whole.version in {"", part.tool_set.version}:
                whole.MergeFrom(part.tool_set)
            case _:
                raise unfit("The parts of the tool set do not fit together.")
    if not parts:
        raise unfit("The service sent no tool set.")
    return whole


def batch_authorize(queries: Sequence[Query]) -> Calls[list[Decision]]:
    """Decide about many tokens, and read the tool sets that the response had no room for."""
    sent = [query for query in queries if query.is_sendable()]
    if queries and not sent:
        return [MALFORMED] * len(queries)
    requests = [_request(query) for query in sent]
    response: BatchAuthorizeResponse = yield BatchAuthorizeRequest(requests=requests)
    if len(response.responses) != len(requests):
        raise unfit("The response does not have a decision for each query.")
    sets = {each.version: each for each in response.tool_sets}
    decisions: list[Decision] = []
    for query, request, each in zip(sent, requests, response.responses, strict=True):
        decided = decide(request, each)
        if isinstance(decided, Granted) and _lacks_its_set(decided, query):
            tool_set = sets.get(decided.tool_set_version) or (yield from read_tool_set(query))
            if isinstance(tool_set, Denied):
                decisions.append(tool_set)
                continue
            # By its own version: what was read may be newer than what the batch named, and is of this key alone.
            sets[tool_set.version] = tool_set
            decided = Granted(decided.key, tool_set=tool_set, tool_set_version=tool_set.version)
        decisions.append(decided)
    of_sent = iter(decisions)
    return [next(of_sent) if query.is_sendable() else MALFORMED for query in queries]


def _request(query: Query) -> AuthorizeRequest:
    try:
        return query.request()
    except UnicodeEncodeError:
        # Such as half of a character in a tool's name that came as JSON.
        message = "A part of the query other than the token is not text."
        raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, message) from None


def _lacks_its_set(decided: Granted, query: Query) -> bool:
    named = decided.tool is None and decided.tool_set is None and decided.tool_set_version
    return bool(named) and decided.tool_set_version != query.tool_set_version


def issue_key(request: IssueKeyRequest) -> Calls[IssuedKey]:
    """Issue a key."""
    response = yield _with_request_id(request)
    return IssuedKey(response.key, response.token)


def rotate_key(request: RotateKeyRequest) -> Calls[IssuedKey]:
    """Make a successor of a key."""
    response = yield _with_request_id(request)
    return IssuedKey(response.key, response.token, response.predecessor)


Creation = TypeVar("Creation", IssueKeyRequest, RotateKeyRequest)


def _with_request_id(request: Creation) -> Creation:
    """Return a request with an id, so that it is made at most once, however often a proxy or gRPC sends it."""
    if request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy


def one(request: Message) -> Calls[Any]:
    """Make a single call."""
    return (yield request)


def elements(page: Message) -> Sequence[Any]:
    """Return what a page lists: its only list of messages.

    Raises:
        TypeError: It is not a page.
    """
    fields = page.DESCRIPTOR.fields
    lists = [each.name for each in fields if each.is_repeated and each.message_type is not None]
    if "next_page_token" not in page.DESCRIPTOR.fields_by_name or len(lists) != 1:
        raise TypeError(f"{page.DESCRIPTOR.full_name} is not a page of a list")
    found: Sequence[Any] = getattr(page, lists[0])
    return found


def first_page(request: Message) -> Any:  # noqa: ANN401 - any request that has pages
    """Return a copy of a request for a list, to set its page token.

    Raises:
        TypeError: It is not a request for a list.
    """
    if "page_token" not in request.DESCRIPTOR.fields_by_name:
        raise TypeError(f"{request.DESCRIPTOR.full_name} does not ask for a list")
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


def serialize(request: Message) -> bytes:
    """Return the bytes of a request."""
    return request.SerializeToString()


def unfit(message: str) -> ServiceError:
    """Return the error of a response that is not one. It is an outage."""
    return ServiceError(grpc.StatusCode.INTERNAL, message)
