"""Calls of Authorize, frame by frame, on a service that the tests of one transport share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.http2 import framed
from tests.support.service import TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.http2 import Connection, Response, Stream
    from tests.support.service import Service

AUTHORIZE = "/skilder.keys.v1.AuthorizationService/Authorize"
GET_KEY = "/skilder.keys.v1.KeyService/GetKey"
KNOWN = {"authorization": f"Bearer {TOKENS['operator']}"}
GZIP = {"grpc-encoding": "gzip"}
LIMIT = 2**16
"""The longest message that the shared service accepts."""
Code = grpc.StatusCode


@dataclass(frozen=True)
class Served:
    """A service that all tests of one transport share, with the small workspace and one of its keys."""

    transport: str
    service: Service
    token: str

    async def connection_is_fine(self, connection: Connection) -> None:
        """Fail unless calls on this connection still work."""
        response = await ask(connection, request("no token"))
        assert reason_of(response) == pb.DENIAL_REASON_MALFORMED


def request(token: str, **fields: Any) -> bytes:
    """Return a framed request to Authorize."""
    return framed(pb.AuthorizeRequest(token=token, **fields).SerializeToString())


async def ask(
    connection: Connection,
    *frames: bytes,
    path: str = AUTHORIZE,
    fields: Mapping[str, str] | None = None,
    **options: Any,
) -> Response:
    """Make a call as the operator with these DATA frames, and return the response."""
    stream = connection.call(path, {**KNOWN, **(fields or {})}, end=not frames, **options)
    await stream.send(*frames, end=True)
    return await stream.response()


async def start_call(connection: Connection, *frames: bytes, path: str = AUTHORIZE, **fields: str) -> Stream:
    """Start a call as the operator, and return once the server knows of it."""
    stream = connection.call(path, KNOWN | {name.replace("_", "-"): value for name, value in fields.items()})
    await stream.send(*frames)
    await connection.settled()
    return stream


def reason_of(response: Response) -> pb.DenialReason.ValueType:
    """Return why Authorize denied."""
    return pb.AuthorizeResponse.FromString(response.message).denied.reason


def bytes_of(data: bytes) -> list[bytes]:
    """Return the bytes one by one."""
    return [data[at : at + 1] for at in range(len(data))]


WHOLE = request("no token")
"""A request with a malformed token, which is denied without any look-up."""
