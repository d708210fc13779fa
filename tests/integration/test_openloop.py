"""The load generator of the bench: it sends by the clock, and records what became of every call."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from bench.openloop import BUSY, GRANTED, LOST, MISSING, PROGRAM, Asked, OpenLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from bench.openloop import Timeline

_TOKEN = "caller-of-the-test"
_SERVICE = "test.Service"
_RESPONSES = {b"granted": b"\x0a\x00", b"denied": b"\x12\x00", b"slow": b"\x0a\x00"}


@pytest.fixture(autouse=True)
def _program() -> None:
    if not PROGRAM.exists():
        pytest.skip(MISSING)


@asynccontextmanager
async def _serving(seen: Counter[bytes], held: asyncio.Event) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    """Serve a method that does what its request says."""

    async def respond(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        assert dict(context.invocation_metadata() or ())["authorization"] == f"Bearer {_TOKEN}"
        seen[request] += 1
        kind = request.split()[0]
        if kind == b"busy":
            status: Any = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="busy")
            status.details.add().Pack(ErrorInfo(reason="BUSY"))
            await context.abort_with_status(rpc_status.to_status(status))
        if kind == b"internal":
            await context.abort(grpc.StatusCode.INTERNAL, "wrong")
        if kind == b"slow":
            await held.wait()
        return _RESPONSES[kind]

    server = grpc.aio.server()
    port = _listen(server, respond, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(None)


def _listen(server: grpc.aio.Server, respond: Any, address: str) -> int:
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(respond)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Call": method}),))
    return server.add_insecure_port(address)


def _asked(address: str, requests: Sequence[bytes], probes: Sequence[bytes] = ()) -> Asked:
    return Asked(address, f"/{_SERVICE}/Call", requests, (), lambda ports: range(len(ports))[:2], 4, probes)


async def _run(folder: Path, asked: Asked, rate: float, seconds: float) -> Timeline:
    def run() -> Timeline:
        with OpenLoop(folder, _TOKEN).running(asked, rate, seconds) as load:
            pass
        return load.timeline

    return await asyncio.to_thread(run)


async def test_every_call_is_made_and_recorded(tmp_path: Path) -> None:
    """Requests take turns in random order, and every fifth call is a probe."""
    seen: Counter[bytes] = Counter()
    requests = [b"granted %d" % number for number in range(40)]
    async with _serving(seen, asyncio.Event()) as (address, _):
        timeline = await _run(tmp_path, _asked(address, requests, [b"denied 1", b"denied 2"]), 200, 1)
    assert {seen[each] for each in requests} == {4}
    assert seen[b"denied 1"] == seen[b"denied 2"] == 20
    assert timeline.outcomes() == {GRANTED: 160, "denied": 40}
    assert [call.due for call in timeline.calls] == pytest.approx([number / 200 for number in range(200)])
    assert len(timeline.took(0.25, 0.75)) + len(timeline.took(0.25, 0.75, probes=True)) == 100
    assert all(call.took > 0 for call in timeline.calls)
    with pytest.raises(RuntimeError, match="'denied': 40"):
        timeline.require_granted()


async def test_the_outcome_of_a_call_is_known(tmp_path: Path) -> None:
    """The status of gRPC, and the reason BUSY."""
    requests = [b"granted", b"denied", b"busy", b"internal"]
    async with _serving(Counter(), asyncio.Event()) as (address, _):
        timeline = await _run(tmp_path, _asked(address, requests), 100, 1)
    assert timeline.outcomes() == dict.fromkeys((GRANTED, "denied", BUSY, "INTERNAL"), 25)


async def test_calls_are_due_while_the_server_does_nothing(tmp_path: Path) -> None:
    """More calls than streams: those that could not be sent count from the time at which they were due."""
    held = asyncio.Event()
    seen: Counter[bytes] = Counter()
    async with _serving(seen, held) as (address, _):
        running = asyncio.create_task(_run(tmp_path, _asked(address, [b"slow"]), 500, 1))
        async with asyncio.timeout(60):
            while seen[b"slow"] < 200:  # a hundred on each connection
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.2)
            held.set()
            timeline = await running
    assert seen[b"slow"] == 500
    assert timeline.outcomes() == {GRANTED: 500}
    # The server was let go that late, and no call was answered before.
    assert min(call.due * 1000 + call.took for call in timeline.calls) >= 1200


async def test_each_request_is_made_once(tmp_path: Path) -> None:
    """In a closed loop."""
    seen: Counter[bytes] = Counter()
    requests = [b"granted %d" % number for number in range(300)]
    async with _serving(seen, asyncio.Event()) as (address, _):
        timeline = await asyncio.to_thread(OpenLoop(tmp_path, _TOKEN).once, _asked(address, requests), 16)
    assert set(seen.values()) == {1}
    assert [call.request for call in timeline.calls] == list(range(300))
    assert timeline.outcomes() == {GRANTED: 300}


async def test_the_generator_connects_again(tmp_path: Path) -> None:
    """When the server asks it to, and while no server is there, and sends then what was due meanwhile."""
    seen: Counter[bytes] = Counter()
    async with _serving(seen, asyncio.Event()) as (address, server):
        running = asyncio.create_task(_run(tmp_path, _asked(address, [b"granted"]), 200, 3))
        async with asyncio.timeout(60):
            while seen[b"granted"] < 100:
                await asyncio.sleep(0.01)
            await server.stop(30)
            before = seen[b"granted"]
            assert before < 600
            again = grpc.aio.server()
            assert _listen(again, _always_granted, address)
            await again.start()
            timeline = await running
            await again.stop(None)
    found = timeline.outcomes()
    # gRPC's server may cut off calls that reach it while it stops.
    assert set(found) <= {GRANTED, LOST, "CANCELLED", "UNAVAILABLE"}
    assert found.total() == 600
    assert found[GRANTED] > 550


async def _always_granted(_request: bytes, _context: object) -> bytes:
    return _RESPONSES[b"granted"]
