"""gRPC's interoperability test service in Envoy: `AsgiMethods` serves its unary methods, as it does the fast methods.

`python -m tests.support.interop FOLDER SETTINGS` serves until it is killed. It keeps its files in the folder; the
settings are JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from skilder_keys.envoy_settings import EnvoySettings
from skilder_keys.rpc.call_metrics import CallMetrics
from skilder_keys.rpc.errors import StatusError
from skilder_keys.transports.envoy.asgi import AsgiMethods
from skilder_keys.transports.envoy.process import become
from skilder_keys.transports.framing import framed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.transports.envoy.context import Event, Receive, Send

    Headers = list[tuple[bytes, bytes]]
    from skilder_keys.rpc.context import Context

_SERVICE = "/grpc.testing.TestService"
_MAX_BYTES = 2**20
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Which metadata of a call is echoed, by the event whose headers carry it.
_ECHOED = {
    "http.response.start": b"x-grpc-test-echo-initial",
    "http.response.trailers": b"x-grpc-test-echo-trailing-bin",
}
pb: Any = grpc.protos("tests/support/interop.proto")


class _Application:
    """An ASGI application. It serves the streaming method itself, since streams are no part of what is tested."""

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve a call; the first call is the lifespan, which lasts as long as the server."""
        if scope["type"] == "lifespan":
            await receive()
            self._methods = AsgiMethods(_UNARY, {}, CallMetrics(), max_calls=100)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        serve = _full_duplex if scope["path"] == f"{_SERVICE}/FullDuplexCall" else self._methods.serve
        await serve(scope, receive, _echoing(scope["headers"], send))


def _echoing(metadata: Headers, send: Send) -> Send:
    """Return a `send` that adds the metadata to echo to the events."""

    async def echo(event: Event) -> None:
        wanted = _ECHOED.get(event["type"])
        echoed = [(name, value) for name, value in metadata if name == wanted]
        await send({**event, "headers": [*event["headers"], *echoed]} if echoed else event)

    return echo


async def _empty(context: Context) -> bytes:
    await context.read(_MAX_BYTES)
    return b""


async def _unary(context: Context) -> bytes:
    request = pb.SimpleRequest.FromString(await context.read(_MAX_BYTES))
    if request.response_status.code:
        raise StatusError(_CODES[request.response_status.code], request.response_status.message)
    return _payload(pb.SimpleResponse, request.response_size)


_UNARY = {
    f"{_SERVICE}/EmptyCall": _empty,
    f"{_SERVICE}/UnaryCall": _unary,
    f"{_SERVICE}/StreamingInputCall": _empty,  # the client cancels it
}


async def _full_duplex(_scope: Event, receive: Receive, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/grpc")],
            "trailers": True,
        }
    )
    status = [(b"grpc-status", b"0")]
    async for message in _messages(receive):
        request = pb.StreamingOutputCallRequest.FromString(message)
        for wanted in request.response_parameters:
            part = _payload(pb.StreamingOutputCallResponse, wanted.size)
            await send({"type": "http.response.body", "body": framed(part), "more_body": True})
        if request.response_status.code:
            code, words = request.response_status.code, request.response_status.message
            status = [(b"grpc-status", b"%d" % code), (b"grpc-message", words.encode("ascii"))]
            break
    await send({"type": "http.response.body", "body": b""})
    await send({"type": "http.response.trailers", "headers": status})


async def _messages(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the messages of a call as they come."""
    held = b""
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        held += event["body"]
        more = event["more_body"]
        while len(held) >= (end := 5 + int.from_bytes(held[1:5], "big")):
            yield held[5:end]
            held = held[end:]


def _payload(response_type: Any, size: int) -> bytes:
    response: bytes = response_type(payload=pb.Payload(body=bytes(size))).SerializeToString()
    return response


def main(folder: str, settings: str) -> None:
    """Become an Envoy that serves."""
    become(
        EnvoySettings.of(json.loads(settings)),
        0,
        Path(folder),
        "tests.support.interop:application",
        "/grpc.testing.",
    )


application = _Application()

if __name__ == "__main__":
    main(*sys.argv[1:])
