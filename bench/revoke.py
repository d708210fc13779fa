"""RevokeKey with idle workers, and with one that is frozen."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import psutil

from bench import seed
from bench.load import JsonCalls, percentile
from bench.naive.service import NaiveService, asks
from bench.report import Row
from bench.rounds import Spread
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.caller import Caller
    from bench.environment import Environment
    from bench.report import Report
    from bench.seed import MadeKey
    from bench.server import Server

_WORKERS = 8
_REVOKES = 300
_FREEZES = 3
_LEASE_MS = 2_000
_SPARE_MS = 500
_PEER_SECONDS = 5.0


def run(environment: Environment, report: Report) -> None:
    """Measure one revocation after another, from one connection."""
    # Connections have no maximum age here: a new one might go to the frozen worker.
    with environment.server("revocations", workers=_WORKERS, SKILDER_KEYS_MAX_CONNECTION_AGE="3600") as server:
        with server.caller() as caller:
            caller.apply(example_workspace())
        keys = seed.add_keys(server.sql, "acme", environment.effort.some(_REVOKES) + 3 * _FREEZES)
        frozen, idle = keys[: 3 * _FREEZES], keys[3 * _FREEZES :]
        _beside_idle(environment, server, idle, report)
        _beside_frozen(server, frozen, report)


def _beside_idle(environment: Environment, server: Server, keys: list[MadeKey], report: Report) -> None:
    with (
        server.caller() as caller,
        NaiveService.running(environment, server, [key.token for key in keys]) as application,
        application.connection() as connection,
    ):
        for key in keys:
            caller.granted(key.token)
        took, simple = [], []
        for key in keys:
            took.append(_milliseconds(partial(caller.revoke, str(key.id))))
            revoking = JsonCalls(f"/keys/{key.id}/revoke", b"")
            simple.append(_milliseconds(partial(application.response, connection, revoking)))
        for key in keys:
            _require_revoked(caller, key)
            if b'"REVOKED"' not in application.response(connection, JsonCalls("/authorize", asks(key.token))):
                raise RuntimeError("the naive application has not revoked a key")
    took.sort()
    simple.sort()
    results = {"revokes": len(took), "least": took[0], "greatest": took[-1]}
    for percent, limit in ((50, 10), (99, 50)):
        name = f"RevokeKey beside {_WORKERS} idle workers, p{percent}"
        report.add(Row(name, percentile(took, percent), "ms", "at most", limit, None, results))
        report.compare(name, "ms", percentile(simple, percent))


def _beside_frozen(server: Server, keys: list[MadeKey], report: Report) -> None:
    first, second = [], []
    for number in range(_FREEZES):
        good, known, other = keys[3 * number : 3 * number + 3]
        with ExitStack() as stack:
            revoking = stack.enter_context(server.caller())
            serving = _worker_of(server, revoking, good)
            asking, worker = _on_another_worker(server, stack, serving, good)
            asking.granted(known.token)
            worker.send_signal(signal.SIGSTOP)
            try:
                first.append(_milliseconds(partial(revoking.revoke, str(known.id))))
                second.append(_milliseconds(partial(revoking.revoke, str(other.id))))
            finally:
                worker.send_signal(signal.SIGCONT)
            # The worker continues with the key in its memory, and must not decide by that.
            _require_revoked(asking, known)
            asking.granted(good.token)
    limit = _LEASE_MS + _SPARE_MS
    name = "RevokeKey with a worker frozen"
    report.add(Row(f"{name}: the first one, slowest", max(first), "ms", "at most", limit, Spread.of(first)))
    report.add(Row(f"{name}: the one after it, slowest", max(second), "ms", "at most", 50, Spread.of(second)))


def _milliseconds(revoke: Callable[[], object]) -> float:
    """Return how many milliseconds a revocation takes."""
    began = time.perf_counter()
    revoke()
    return (time.perf_counter() - began) * 1000


def _require_revoked(caller: Caller, key: MadeKey) -> None:
    response = caller.authorize(pb.AuthorizeRequest(token=key.token))
    if response.denied.reason != pb.DENIAL_REASON_REVOKED:
        raise RuntimeError("a revoked key was not denied as revoked")


def _on_another_worker(
    server: Server, stack: ExitStack, taken: psutil.Process, key: MadeKey
) -> tuple[Caller, psutil.Process]:
    """Return a connection to another worker, and that worker. Linux assigns connections to workers."""
    for _ in range(100):
        caller = stack.enter_context(server.caller())
        worker = _worker_of(server, caller, key)
        if worker != taken:
            return caller, worker
    raise RuntimeError("all connections are to the same worker")


def _worker_of(server: Server, caller: Caller, key: MadeKey) -> psutil.Process:
    """Return the worker of a connection: the only one with a connection from our newest local port."""
    port = int(server.target.address.rpartition(":")[2])
    before = _ports_to(port)
    caller.granted(key.token)
    (ours,) = _ports_to(port) - before
    end = time.monotonic() + _PEER_SECONDS
    while time.monotonic() < end:
        for worker in server.workers():
            if any(each.raddr and each.raddr.port == ours for each in worker.net_connections("tcp")):
                return worker
    raise RuntimeError("no worker has the connection")


def _ports_to(port: int) -> set[int]:
    """Return the local ports of this process's connections to a port."""
    return {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
    }
