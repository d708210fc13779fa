"""ASGI applications in Envoy that answer as many bytes as Authorize does: what the fast door's transport costs.

`python -m tests.bench.empty_asgi PART BODY CALLERS FOLDER` serves one of `PARTS` and prints its address. It answers the
bytes of the file BODY, to callers of the file CALLERS where it looks at them, and has what it needs in FOLDER.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.config import Settings
from service.envoy.process import become
from service.rpc.framing import framed

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
    """Answers an application that answers the body, whatever is asked."""
    answer = framed(body)

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(_START)
        await send({"type": "http.response.body", "body": answer})
        await send(_OK)

    return application


def _framed(body: bytes, _callers: Path) -> Any:
    """Answers the door's short way, without a gate."""

    class AtOnce:
        max_bytes = 2**16

        def caller(self, _credentials: str) -> Any:
            return self

        def answer(self, _message: bytes, _caller: Any) -> bytes:
            return body

    async def serve(_context: Any) -> bytes:
        return body

    return _door(serve, {_METHOD: AtOnce()})


def _gated(body: bytes, callers: Path) -> Any:
    """Answers the door with the gate's short way around an empty method."""
    import structlog  # noqa: PLC0415 - the empty application is to have nothing in its memory but itself

    from service.callers_file import load_callers  # noqa: PLC0415
    from service.domain.access import Ability  # noqa: PLC0415
    from service.domain.hashing import Recogniser  # noqa: PLC0415
    from service.offload import Offload  # noqa: PLC0415
    from service.rpc.authorization_service import DESCRIPTOR  # noqa: PLC0415
    from service.rpc.callers import Callers  # noqa: PLC0415
    from service.rpc.gate import Gate  # noqa: PLC0415
    from service.rpc.time_limit import TimeLimit  # noqa: PLC0415

    class Servicer:
        async def Authorize(self, _request: Any, call: Any) -> bytes:  # noqa: N802
            call.routine = True
            return body

        BatchAuthorize = Authorize

    nobody: Any = None  # it would be asked about runtime keys
    gate = Gate(Callers(load_callers(callers), nobody, Recogniser()), structlog.get_logger(), TimeLimit(30), Offload())
    at_once = gate.at_once(DESCRIPTOR, Ability.AUTHORIZE, {"Authorize": lambda _request, _caller: body})
    return _door(gate.methods(DESCRIPTOR, Ability.AUTHORIZE, Servicer())[_METHOD], at_once)


def _door(method: Callable[[Any], Awaitable[bytes]], at_once: Mapping[str, Any]) -> Any:
    from service.rpc.asgi import Methods  # noqa: PLC0415
    from service.rpc.eager import task_factory  # noqa: PLC0415

    asyncio.get_running_loop().set_task_factory(task_factory)
    return Methods({_METHOD: method}, at_once, max_calls=1_000).begin


PARTS: Mapping[str, Callable[[bytes, Path], Any]] = {"empty": _empty, "framed": _framed, "gated": _gated}
_METHOD = "/skilder.keys.v1.AuthorizationService/Authorize"


def _chosen() -> Any:
    part, body, callers = os.environ[_VARIABLE].split(os.pathsep)
    return PARTS[part](Path(body).read_bytes(), Path(callers))


class Application:
    """One of the parts, with a lifespan."""

    # It answers a coroutine and is no coroutine function; asgiref's mark for those.
    _asgi_single_callable = True

    def __init__(self) -> None:
        """Begins with its lifespan."""
        self._answer: Any = self._live

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Answers what answers one call."""
        answer: Awaitable[None] = self._answer(scope, receive, send)
        return answer

    async def _live(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self._answer = _chosen()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


application = Application()


def main(part: str, body: str, callers: str, folder: str) -> None:
    """Serves until it is killed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    os.environ[_VARIABLE] = os.pathsep.join((part, body, callers))
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    settings = Settings(listen=address, max_connection_age=3600)
    become(settings, 0, Path(folder), "tests.bench.empty_asgi:application")


if __name__ == "__main__":
    main(*sys.argv[1:])
