"""Check over HTTP, for gateways that ask by a request of their own: nginx, Caddy and Traefik.

Such a gateway sends a request with the headers of its client, and what the client asked for in more headers. Which ones
these are depends on the path, not on what is there: a client may send any that its gateway does not replace.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

from skilder.envoy import auth_pb2 as pb
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.rpc.errors import MalformedMessageError
from skilder_keys.rpc.gateway.credential import IDENTITY_PREFIX
from skilder_keys.rpc.gateway.envoy_service import IDENTITY_HEADERS, REFUSE
from skilder_keys.rpc.status import retry_after_seconds

if TYPE_CHECKING:
    from skilder_keys.domain.errors import KeysError

CALLER = f"{IDENTITY_PREFIX}caller"
"""The header with the gateway's own token, as `Authorization` has the client's."""
TARGET = f"{IDENTITY_PREFIX}target"
"""The header of a response with the path and the query to send on, without the key."""
REASON = f"{IDENTITY_PREFIX}reason"
"""The header of a response with the reason of a refusal, for gateways that drop its body."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_LINE = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.[01]")


class Told(NamedTuple):
    """In which headers a kind of gateway tells what its client asked for."""

    method: str
    target: str
    source: str


PATHS = {
    "/check/nginx": Told("x-original-method", "x-original-uri", "x-real-ip"),
    "/check/forward": Told("x-forwarded-method", "x-forwarded-uri", "x-forwarded-for"),
}
"""The paths of the endpoint."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request of a gateway.

    Attributes:
        method: The method.
        path: The path.
        query: The query.
        headers: The names in lower case and the values, in their order.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    def values(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for each, value in self.headers if each == name]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response to a gateway, most of which it passes on to its client."""

    status: HTTPStatus
    headers: tuple[tuple[str, str], ...]
    body: str


def parse_head(data: bytes) -> Head:
    """Parse the head of a request, with the empty line at its end.

    Raises:
        MalformedMessageError: It is not a valid one.
    """
    line, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = _LINE.fullmatch(line)
    if match is None:
        raise MalformedMessageError("The first line is not one of HTTP/1.1.")
    headers = []
    for each in lines:
        name, colon, value = each.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise MalformedMessageError("A header is not valid.")
        headers.append((name.lower(), value.strip(" \t")))
    path, _, query = match[2].partition("?")
    return Head(match[1], path, query, tuple(headers))


def check_request(head: Head, body: bytes) -> pb.CheckRequest:
    """Return the question of a gateway, as Envoy would ask it.

    Raises:
        InvalidRequestError: The gateway does not tell what its client asked for, so it is not set up as it should be.
    """
    told = PATHS[head.path]
    described = {*told, CALLER}
    request = pb.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.raw_body = _only(head, told.method), _only(head, told.target), body
    for name, value in head.headers:
        if name not in described:
            http.header_map.headers.add(key=name, raw_value=value.encode("latin-1"))
    sources = ",".join(head.values(told.source)).split(",")
    # The last one is the address that the gateway has seen. Those before it were sent by others.
    request.attributes.source.address.socket_address.address = sources[-1].strip()
    extensions = request.attributes.context_extensions
    extensions[IDENTITY_HEADERS] = REFUSE
    for name, value in parse_qsl(head.query, keep_blank_values=True):
        if name in extensions:
            raise InvalidRequestError(FieldViolation("query", f"has {name} twice"))
        extensions[name] = value
    return request


def _only(head: Head, name: str) -> str:
    values = head.values(name)
    if len(values) != 1 or not values[0]:
        raise InvalidRequestError(FieldViolation(name, "must be set by the gateway, once"))
    return values[0]


def decided(response: pb.CheckResponse, target: str) -> HttpResponse:
    """Return the response for a decision.

    Args:
        response: The decision, as Envoy gets it.
        target: The path and the query that the client asked for.
    """
    if response.HasField("denied_response"):
        denied = response.denied_response
        headers = [(each.header.key, each.header.value) for each in denied.headers]
        headers.append((REASON, json.loads(denied.body)["reason"]))
        return HttpResponse(HTTPStatus(denied.status.code), tuple(headers), denied.body)
    found = {each.header.key: each.header.value for each in response.ok_response.headers}
    found[TARGET] = found.pop(":path", target)
    return HttpResponse(HTTPStatus.OK, tuple(found.items()), "")


def failed(error: KeysError) -> HttpResponse:
    """Return the response for a failed call: 503, whatever failed, since nothing was decided about the request."""
    headers = [("content-type", "application/json"), ("cache-control", "no-store"), (REASON, error.reason.lower())]
    if (seconds := retry_after_seconds(error)) is not None:
        headers.append(("retry-after", str(seconds)))
    # The gateway passes the body on, and a client need not know what is wrong between its gateway and the service.
    body = {"error": "temporarily_unavailable", "reason": "unavailable", "message": "The key cannot be checked now."}
    return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, tuple(headers), json.dumps(body))
