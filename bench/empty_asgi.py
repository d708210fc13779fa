"""ASGI applications in Envoy that return as many bytes as Authorize does: what the transport costs.

`python -m bench.empty_asgi PART BODY CALLERS FOLDER` serves one of `PARTS` and prints its address. It returns the
bytes of the file BODY, checks callers by the file CALLERS where the part does that, and keeps its files in FOLDER.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilder_keys.envoy_settings import EnvoySettings
from skilder_keys.transports.envoy.process import become
from skilder_keys.transports.framing import framed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_VARIABLE = "SKILDER_BENCH_PART"
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


def _empty(body: bytes, _callers: Path) -> Any:
    """Return an application that returns the body to every request."""
    response = framed(body)

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(_START)
        await send({"type": "http.response.body", "body": response})
        await send(_OK)

    return application


def _framed(body: bytes, _callers: Path) -> Any:
    """Return the application of the fast path, without the pipeline."""

    class FastPath:
        max_bytes = 2**16

        def caller(self, _credentials: str) -> Any:
            return self

        def respond(self, _message: bytes, _caller: Any, _began: float) -> bytes:
            return body

    async def serve(_context: Any) -> bytes:
        return body

    return _transport(serve, {_METHOD: FastPath()})


def _through_pipeline(body: bytes, callers: Path) -> Any:
    """Return the application with the fast path and the pipeline around an empty method."""
    import structlog  # noqa: PLC0415 - the empty application is to have nothing in its memory but itself

    from skilder_keys.auth.callers import Callers  # noqa: PLC0415
    from skilder_keys.auth.callers_file import load_callers  # noqa: PLC0415
    from skilder_keys.domain.hashing import TokenFingerprint  # noqa: PLC0415
    from skilder_keys.offload import Offload  # noqa: PLC0415
    from skilder_keys.rpc.authorization_service import DESCRIPTOR  # noqa: PLC0415
    from skilder_keys.rpc.pipeline import Pipeline  # noqa: PLC0415
    from skilder_keys.rpc.time_limit import TimeLimit  # noqa: PLC0415

    class Servicer:
        async def Authorize(self, _request: Any, call: Any) -> bytes:  # noqa: N802
            call.routine = True
            return body

        BatchAuthorize = Authorize

    nobody: Any = None  # only needed for runtime keys
    pipeline = Pipeline(
        Callers(load_callers(callers), nobody, TokenFingerprint()), structlog.get_logger(), TimeLimit(30), Offload()
    )
    fast_paths = pipeline.fast_paths(DESCRIPTOR, {"Authorize": lambda _request, _caller: body})
    return _transport(pipeline.methods(DESCRIPTOR, Servicer())[_METHOD], fast_paths)


def _transport(method: Callable[[Any], Awaitable[bytes]], fast_paths: Mapping[str, Any]) -> Any:
    from skilder_keys.rpc.call_metrics import CallMetrics  # noqa: PLC0415
    from skilder_keys.transports.envoy.asgi import AsgiMethods  # noqa: PLC0415
    from skilder_keys.transports.envoy.fast_call import task_factory  # noqa: PLC0415

    asyncio.get_running_loop().set_task_factory(task_factory)
    return AsgiMethods({_METHOD: method}, fast_paths, CallMetrics(), max_calls=1_000).start_call


PARTS: Mapping[str, Callable[[bytes, Path], Any]] = {"empty": _empty, "framed": _framed, "pipeline": _through_pipeline}
_METHOD = "/skilder.keys.v1.AuthorizationService/Authorize"


def _chosen() -> Any:
    part, body, callers = os.environ[_VARIABLE].split(os.pathsep)
    return PARTS[part](Path(body).read_bytes(), Path(callers))


class Application:
    """One of the parts, with a lifespan."""

    # It returns a coroutine but is no coroutine function; asgiref marks such callables so.
    _asgi_single_callable = True

    def __init__(self) -> None:
        """Start with the lifespan."""
        self._application: Any = self._live

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Return the coroutine that serves a call."""
        call: Awaitable[None] = self._application(scope, receive, send)
        return call

    async def _live(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self._application = _chosen()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


application = Application()


def main(part: str, body: str, callers: str, folder: str) -> None:
    """Serve until it is killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    os.environ[_VARIABLE] = os.pathsep.join((part, body, callers))
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    settings = EnvoySettings(listen=address, max_connection_age=3600)
    become(settings, 0, Path(folder), "bench.empty_asgi:application")


if __name__ == "__main__":
    main(*sys.argv[1:])
