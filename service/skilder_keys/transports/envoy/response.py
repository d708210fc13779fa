"""Responses as ASGI events. In gRPC over HTTP/2 the status is in the trailers, or without a message in the headers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from skilder_keys.transports.envoy.context import CONTENT_TYPE
from skilder_keys.transports.framing import ENCODINGS, framed

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

    from skilder_keys.transports.envoy.context import Event

_CONTENT_TYPE: Final = (b"content-type", CONTENT_TYPE)
_START: Final = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_OK: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_UNESCAPED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

NOT_GRPC: Final[tuple[Event, ...]] = (
    {"type": "http.response.start", "status": 415, "headers": []},
    {"type": "http.response.body"},
)
"""The response to a request that is not a gRPC call: HTTP status 415, as gRPC over HTTP/2 recommends."""


def events_of(message: bytes) -> tuple[Event, ...]:
    """Return the events of a response with the status OK and this serialised message."""
    return _START, {"type": "http.response.body", "body": framed(message)}, _OK


def failure_events(
    code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, Any]] | None = None
) -> tuple[Event, ...]:
    """Return the events of a response without a message, with the status and the metadata in the headers."""
    headers = [
        _CONTENT_TYPE,
        (b"grpc-accept-encoding", ENCODINGS),
        (b"grpc-status", b"%d" % code.value[0]),
        (b"grpc-message", quote(message, safe=_UNESCAPED).encode("ascii")),
        *((name.encode("ascii"), base64.b64encode(value).rstrip(b"=")) for name, value in metadata or ()),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}, {"type": "http.response.body"}
