"""The first use of keys, one call for each: its cost, and the memory that it leaves in use."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from bench import seed
from bench.authorize import METHOD
from bench.load import Calls
from bench.naive.service import NaiveService, asks
from bench.plot import Bar
from bench.report import Row
from bench.rounds import Spread
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.environment import Environment
    from bench.load import Sample
    from bench.report import Report
    from bench.seed import MadeKey
    from bench.server import Server

_WARM_UP = 3_000
_MEASURED = 12_000
_SIMPLE = 1_000
_AT_ONCE = 16
# The cost of writing last uses, and its memory meanwhile, belong to the calls. So these are written every second.
USAGE_INTERVAL = "1"
_SETTLE_SECONDS = 1.5
_FIRST_USES = "first uses a second and core, Postgres included"


def run(environment: Environment, report: Report) -> None:
    """Measure both in one go: afterwards exactly these keys are in memory that were not before."""
    effort = environment.effort
    size = effort.some(_MEASURED // effort.rounds)
    with environment.server("first_uses", SKILDER_KEYS_USAGE_INTERVAL=USAGE_INTERVAL) as server:
        with server.caller() as caller:
            caller.apply(example_workspace())
        keys = seed.add_keys(server.sql, "acme", effort.some(_WARM_UP) + effort.rounds * size)
        measured = keys[effort.some(_WARM_UP) :]
        first_uses(environment, server, keys[: effort.some(_WARM_UP)])
        before = _memory(server)
        samples, simple = [], []
        with NaiveService.running(environment, server, [key.token for key in measured]) as application:
            for start in range(0, len(measured), size):
                keys_of_round = measured[start : start + size]
                samples.append(first_uses(environment, server, keys_of_round))
                asked = [asks(key.token) for key in keys_of_round[: effort.some(_SIMPLE)]]
                simple.append(application.each_once(environment, asked, _AT_ONCE))
        grown = _memory(server) - before
        if server.counts()["cached_keys"] != len(keys):
            raise RuntimeError("not every key is in memory")
    whole = Spread.of(1e6 / sample.cpu for sample in samples)
    alone = median(1e6 / sample.server_cpu for sample in samples)
    results = {"without_postgres": alone, "keys": len(measured)}
    report.add(
        Row(
            _FIRST_USES,
            whole.median,
            "per second",
            "at least",
            1000,
            whole,
            results,
        )
    )
    report.compare(_FIRST_USES, "per second", median(1e6 / sample.cpu for sample in simple))
    report.note(f"Without the CPU time of Postgres, one core does {alone:,.0f} first uses a second.")
    per_key = grown / len(measured)
    report.add(Row("memory of a key", per_key, "bytes", "at most", 1024, None, {"grown": grown, "keys": len(measured)}))
    postgres = median(sample.database_cpu for sample in samples)
    report.bars.append(Bar("a key's first Authorize", median(sample.server_cpu for sample in samples), postgres))


def first_uses(environment: Environment, server: Server, keys: Sequence[MadeKey]) -> Sample:
    """Authorize each key once; none may be in the server's memory."""
    calls = Calls(METHOD, [pb.AuthorizeRequest(token=key.token) for key in keys])
    load = partial(environment.load.closed, number=len(keys), at_once=_AT_ONCE, settle=_SETTLE_SECONDS)
    return server.granting(len(keys), partial(load, server.target, calls), from_memory=False)


def _memory(server: Server) -> int:
    """Return the bytes that would be free if the worker ended."""
    (worker,) = server.workers()
    return int(worker.memory_full_info().uss)
