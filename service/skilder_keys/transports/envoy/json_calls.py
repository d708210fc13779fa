"""Calls as HTTP and JSON: the same methods through the same pipeline, with another form of messages and statuses."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.rpc import error_details_pb2  # noqa: F401  # JSON has the details of errors by their types
from google.rpc.status_pb2 import Status

from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.errors import MessageTooLongError, StatusError, too_long
from skilder_keys.rpc.http_json.requests import Target, WrongPathError, WrongVerbError, find, to_json
from skilder_keys.rpc.status import retry_after_seconds, trailing_status
from skilder_keys.transports.envoy.context import AsgiContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from skilder_keys.rpc.pipeline import Serve
    from skilder_keys.transports.envoy.context import Event, Receive

    Run = Callable[[str, Serve, AsgiContext], Awaitable[bytes]]

_IS_JSON = re.compile(rb"application/json(?:\s*;\s*charset=\"?utf-8\"?)?", re.IGNORECASE)
# How much longer than the message its JSON may be: names of fields instead of numbers, and escapes.
_JSON_FACTOR: Final = 2
# What is longer is converted in another thread, as the event loop has other calls.
_LONG: Final = 2**16
_STATUS_DETAILS: Final = "grpc-status-details-bin"
_JSON_TYPE: Final = (b"content-type", b"application/json")
# As google.rpc.Code says.
_HTTP_STATUSES: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
_INTERNAL = 500
_TOO_LONG = 413


class HttpError(Exception):
    """A request that is no call of a method."""

    def __init__(self, status: int, code: grpc.StatusCode, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


class JsonCall(AsgiContext):
    """A call whose request is a path, a query and a JSON body.

    Attributes:
        path: The method's path in gRPC.
        serve: The method.
    """

    __slots__ = ("_query", "_target", "path", "serve")

    def __init__(
        self, scope: Event, receive: Receive, first: Awaitable[Event] | None, target: Target, serve: Serve
    ) -> None:
        super().__init__(scope, receive, first)
        self._target = target
        self._query: bytes = scope["query_string"]
        self.path = target.path
        self.serve = serve

    async def read(self, max_bytes: int) -> bytes:
        """Return the request as a message.

        Raises:
            MalformedMessageError, UnknownFieldError: It is not the JSON form of the method's request.
            MessageTooLongError: The body or the message is too long.
        """
        body = await self._body(_JSON_FACTOR * max_bytes)
        if len(body) > _JSON_FACTOR * max_bytes:
            raise too_long(len(body), _JSON_FACTOR * max_bytes)
        query = self._query.decode("latin-1")
        if len(body) > _LONG:
            message = await asyncio.to_thread(self._target.message, query, body)
        else:
            message = self._target.message(query, body)
        if len(message) > max_bytes:
            raise too_long(len(message), max_bytes)
        return message

    def _is_over(self, body: bytearray, max_bytes: int) -> bool:
        return len(body) > max_bytes

    async def events_of(self, message: bytes) -> Iterable[Event]:
        """Return the events of a response with this serialised message."""
        response = self._target.response
        return _events(200, await asyncio.to_thread(response, message) if len(message) > _LONG else response(message))


class JsonMethods:
    """The methods by HTTP method and path."""

    def __init__(self, methods: Mapping[str, Serve]) -> None:
        """Take the methods by their paths in gRPC."""
        self._methods = methods

    async def events(self, scope: Event, receive: Receive, first: Awaitable[Event] | None, run: Run) -> Iterable[Event]:
        """Serve a request, and return the events of its response.

        Args:
            scope: The request, as for an ASGI application.
            receive: As for an ASGI application.
            first: The result of the first `receive()`, if that was called already.
            run: Runs a method, given its path in gRPC, if there is room for another call.
        """
        try:
            call = self._call(scope, receive, first)
            return await call.events_of(await run(call.path, call.serve, call))
        except (KeysError, StatusError, HttpError) as error:
            return _failure_events(error)
        except asyncio.CancelledError:
            return ()  # the client has disconnected

    def _call(self, scope: Event, receive: Receive, first: Awaitable[Event] | None) -> JsonCall:
        """Return the call of a method that a request is.

        Raises:
            HttpError: It is none.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            target = find(scope["method"], scope["raw_path"].decode("latin-1"))
        except WrongPathError:
            raise HttpError(404, grpc.StatusCode.NOT_FOUND, "There is no such path.") from None
        except WrongVerbError as error:
            allow = (b"allow", ", ".join(error.allowed).encode())
            message = f"This path takes {error} only."
            raise HttpError(405, grpc.StatusCode.UNIMPLEMENTED, message, allow) from None
        # Browsers send other types to other sites without asking them.
        if target.has_body and _IS_JSON.fullmatch(headers.get(b"content-type", b"")) is None:
            message = "The body must be JSON: content-type: application/json"
            raise HttpError(415, grpc.StatusCode.INVALID_ARGUMENT, message)
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise HttpError(415, grpc.StatusCode.UNIMPLEMENTED, "The body must not be compressed.")
        return JsonCall(scope, receive, first, target, self._methods[target.path])


def _failure_events(error: KeysError | StatusError | HttpError) -> Iterable[Event]:
    """Return the events of a response with an error: a google.rpc.Status in JSON, with its details."""
    if isinstance(error, HttpError):
        return _events(error.status, _status(error.code, str(error)), *error.headers)
    if not isinstance(error, KeysError):
        return _events(_HTTP_STATUSES.get(error.code, _INTERNAL), _status(error.code, str(error)))
    status = trailing_status(error)
    details = dict(status.trailing_metadata)[_STATUS_DETAILS]
    body = Status.FromString(details)
    headers = []
    if (seconds := retry_after_seconds(error)) is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if status.code is grpc.StatusCode.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    http_status = _TOO_LONG if isinstance(error, MessageTooLongError) else _HTTP_STATUSES.get(status.code, _INTERNAL)
    return _events(http_status, to_json(body), *headers)


def _status(code: grpc.StatusCode, message: str) -> str:
    return json.dumps({"code": code.value[0], "message": message})


def _events(status: int, body: str, *headers: tuple[bytes, bytes]) -> tuple[Event, ...]:
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": status,
        "headers": [_JSON_TYPE, (b"cache-control", b"no-store"), *headers],
    }
    return start, {"type": "http.response.body", "body": f"{body}\n".encode()}
