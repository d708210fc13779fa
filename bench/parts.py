"""The parts of one call's CPU time: by thread and, on the event loop, by layer of the application.

Each application in `empty_asgi` does what the one before does, and one more part of a call.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING

from bench.authorize import METHOD, prepare, response
from bench.cpu import thread_times
from bench.load import Calls
from bench.stack import Stack
from bench.transport import MANY, Side
from skilder.keys.v1 import authorization_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.cpu import ThreadTime
    from bench.environment import Environment
    from bench.load import Sample
    from bench.report import Report

KERNEL = "sockets, in the kernel"
HTTP = "HTTP/2: Envoy's thread, or gRPC's"
HAND_OVER = "pyvoy's thread between Envoy's and the loop"
LOOP = "event loop: ASGI's events, or grpcio's"
FRAMING = "gRPC's framing, errors and limits"
PIPELINE = "the pipeline: the caller, the request parsed"
AUTHORIZE = "Authorize: the key and its use"
REST = "all else: other threads, parent, Postgres"
PARTS = (KERNEL, HTTP, HAND_OVER, LOOP, FRAMING, PIPELINE, AUTHORIZE, REST)

_TRANSPORT, _PIPELINE, _FRAMED, _EMPTY, _GRPCIO = (
    "Authorize by Envoy",
    "pipeline",
    "framed",
    "empty ASGI",
    "empty grpcio",
)
# The kernel's share is known in ticks of a hundredth of a second.
_SECONDS = 1.0
_ENVOY_THREAD = "wrk:worker_0"

Parts = dict[str, float]


def run(environment: Environment, report: Report) -> None:
    """Measure the parts in a closed loop, with new processes in each round."""
    rounds: list[dict[str, Parts]] = []
    with environment.transport("parts", "envoy") as server:
        request = pb.AuthorizeRequest(token=prepare(server))
        body = response(server, request)
        calls = Calls(METHOD, [request])
        for _ in range(environment.effort.rounds):
            server.replace_workers()
            measured = {_TRANSPORT: _by_envoy(environment, Side.of(server, request), server.workers()[0].pid)}
            for name, part in ((_PIPELINE, "pipeline"), (_FRAMED, "framed"), (_EMPTY, "empty")):
                with environment.empty_asgi(body, part) as target:
                    measured[name] = _by_envoy(environment, Side(target, calls, len(body)), target.server.pid)
            with environment.empty(body) as target:
                measured[_GRPCIO] = _by_grpcio(environment, Side(target, calls, len(body)), target.server.pid)
            rounds.append(measured)
    found = {
        name: {part: median(each[name][part] for each in rounds) for part in rounds[0][name]} for name in rounds[0]
    }
    transport = found[_TRANSPORT]
    on_the_loop = [found[name][LOOP] for name in (_EMPTY, _FRAMED, _PIPELINE)] + [transport[LOOP]]
    transport[LOOP] = on_the_loop[0]
    for part, before, after in zip((FRAMING, PIPELINE, AUTHORIZE), on_the_loop, on_the_loop[1:], strict=False):
        transport[part] = after - before
    report.add_stacks([_stack(name, found[name]) for name in (_TRANSPORT, _EMPTY, _GRPCIO)], PARTS)


def _stack(name: str, parts: Mapping[str, float]) -> Stack:
    # A part that is smaller than the noise may come out below zero.
    return Stack(name, [(part, max(0.0, parts[part])) for part in PARTS if part in parts])


def _by_envoy(environment: Environment, side: Side, pid: int) -> Parts:
    """Return the microseconds a call of an Envoy with an application in it."""
    sample, threads = _threads(environment, side, pid)
    (envoy,) = (thread for thread in threads if thread.name == _ENVOY_THREAD)
    # Both threads of pyvoy have the same name. The event loop's thread starts first. The other one passes calls and
    # responses between Envoy and the loop. A worker may have started threads in between, which do nothing here.
    _, loop, *others = (thread for thread in threads if thread.name == threads[0].name)
    hand_over = max(others, key=attrgetter("seconds"))
    parts = {
        KERNEL: envoy.kernel_seconds,
        HTTP: envoy.seconds - envoy.kernel_seconds,
        HAND_OVER: hand_over.seconds,
        LOOP: loop.seconds,
    }
    return {**parts, REST: sample.cpu - sum(parts.values())}


def _by_grpcio(environment: Environment, side: Side, pid: int) -> Parts:
    """Return the microseconds a call of a grpcio server, whose event loop is in the main thread."""
    sample, (loop, *others) = _threads(environment, side, pid)
    kernel = loop.kernel_seconds + sum(thread.kernel_seconds for thread in others)
    http = sum(thread.seconds - thread.kernel_seconds for thread in others)
    parts = {KERNEL: kernel, HTTP: http, LOOP: loop.seconds - loop.kernel_seconds}
    return {**parts, REST: sample.cpu - sum(parts.values())}


def _threads(environment: Environment, side: Side, pid: int) -> tuple[Sample, Sequence[ThreadTime]]:
    """Return the sample of a closed loop, and what the process's threads used in it, in microseconds a call."""
    number = side.warmed(environment, MANY, _SECONDS)
    before = thread_times(pid)
    sample = side.measured(environment, MANY, number)
    used = [each.since(before.get(thread)) for thread, each in thread_times(pid).items()]
    return sample, [replace(each, seconds=each.seconds * 1e6 / number) for each in used]
