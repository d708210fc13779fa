"""A million keys in Postgres compared with a thousand: decisions from memory, lists and first reads."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from bench import seed
from bench.authorize import METHOD
from bench.load import Calls, JsonCalls
from bench.naive.service import NaiveService, asks
from bench.report import ratio_row
from bench.rounds import in_turn, medians, ratios
from bench.transport import TOOL
from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_service_pb2
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.environment import Environment
    from bench.load import Sample
    from bench.report import Report
    from bench.rounds import Spread
    from bench.seed import MadeKey
    from bench.server import Server

_MANY, _FEW = 1_000_000, 1_000
_KNOWN_OF_MANY, _KNOWN_OF_FEW = 4_500, 900
_WARM_KEYS, _WARM_CALLS = 200, 4_000
_LISTINGS, _SIMPLE_LISTINGS = 300, 200
_AT_ONCE = 16


class _Side:
    """A server with this many keys, and those whose tokens are known."""

    def __init__(
        self, environment: Environment, server: Server, keys: list[MadeKey], application: NaiveService
    ) -> None:
        self.server = server
        self._application = application
        self._simple = [asks(key.token, TOOL) for key in keys[:_WARM_KEYS]]
        self._environment = environment
        self._requests = [pb.AuthorizeRequest(token=key.token) for key in keys]
        self._read = 0

    def warm(self) -> Sample:
        """Authorize a few keys, again and again."""
        number = self._environment.effort.some(_WARM_CALLS)
        return self._authorize(self._requests[:_WARM_KEYS], number, at_once=_AT_ONCE, from_memory=True)

    def read(self) -> Sample:
        """Authorize many keys once each. None is in memory, but their tokens were verified before."""
        self.server.forget()
        number = min(self._environment.effort.some(_KNOWN_OF_FEW), len(self._requests))
        turned = self._requests[self._read :] + self._requests[: self._read]
        self._read = (self._read + number) % len(self._requests)
        return self._authorize(turned[:number], number, at_once=1, from_memory=False)

    def verify(self) -> None:
        """Authorize every key once."""
        self._authorize(self._requests, len(self._requests), at_once=_AT_ONCE, from_memory=False)

    def listing(self, workspace_id: str) -> Sample:
        """List the newest hundred keys of a workspace, one call after another."""
        request = key_service_pb2.ListKeysRequest(workspace_id=workspace_id, page_size=100)
        calls, number = Calls("KeyService/ListKeys", [request]), self._environment.effort.some(_LISTINGS)
        return self._environment.load.closed(self.server.target, calls, number=number, at_once=1)

    def simple(self, at_once: int) -> Sample:
        """Ask the naive application about one tool of a few keys. It reads the key in each call."""
        return self._application.each_once(self._environment, self._simple, at_once)

    def simple_listing(self, workspace_id: str) -> Sample:
        """List the newest hundred keys by the naive application."""
        calls = JsonCalls(f"/keys?workspace_id={workspace_id}", None)
        number, size = self._environment.effort.some(_SIMPLE_LISTINGS), self._application.size(calls)
        load = self._environment.h2load.closed
        return load(self._application.target, calls, number=number, at_once=1, size=size, latencies=True)

    def _authorize(
        self, requests: list[pb.AuthorizeRequest], number: int, *, at_once: int, from_memory: bool
    ) -> Sample:
        load = partial(self._environment.load.closed, self.server.target, Calls(METHOD, requests))
        run = partial(load, number=number, at_once=at_once)
        return self.server.granting(number, run, from_memory=from_memory)


def run(environment: Environment, report: Report) -> None:
    """Run both at the same time, each with its own database in the same Postgres, and measure them in turn."""
    many = environment.effort.some(_MANY)
    with (
        _filled(environment, "thousand", _FEW, _KNOWN_OF_FEW) as few,
        _filled(environment, "million", many, environment.effort.some(_KNOWN_OF_MANY)) as lots,
    ):
        few.verify()
        lots.verify()
        against = f"with {many:,} keys to {_FEW:,}"
        simple = [partial(side.simple, _AT_ONCE) for side in (lots, few)]
        rounds = in_turn(2 * environment.effort.rounds - 1, lots.warm, few.warm, *simple)
        ours, theirs, *_ = medians(rounds, attrgetter("cpu"))
        spread = ratios(rounds, attrgetter("cpu"))
        name = f"CPU of a warm Authorize {against}"
        report.add(ratio_row(name, spread, 1.05, {"many_us": ours, "few_us": theirs}))
        report.compare(name, "ratio", ratios([each[2:] for each in rounds], attrgetter("cpu")).median)
        listings = {
            name: in_turn(
                environment.effort.rounds,
                *(partial(side.listing, workspace_id) for side in (lots, few)),
                *(partial(side.simple_listing, workspace_id) for side in (lots, few)),
            )
            for name, workspace_id in (("largest", seed.MAIN), ("small", seed.SMALL))
        }
        _add_worst(report, f"a page of 100 keys {against}", listings)
        simple = [partial(side.simple, 1) for side in (lots, few)]
        reads = in_turn(environment.effort.rounds, lots.read, few.read, *simple)
        _add_worst(report, f"reading a key {against}", {"": reads})


def _add_worst(report: Report, what: str, found: dict[str, list[tuple[Sample, ...]]]) -> None:
    """Add CPU time and median latency, each for its worst case."""
    for name, quantity in (("CPU", attrgetter("cpu")), ("p50", attrgetter("p50"))):
        spreads: dict[str, Spread] = {where: ratios(rounds, quantity) for where, rounds in found.items()}
        results: dict[str, float] = {}
        for where, rounds in found.items():
            ours, theirs, *_ = medians(rounds, quantity)
            prefix = f"{where}_" if where else ""
            results |= {f"{prefix}ratio": spreads[where].median, f"{prefix}many_us": ours, f"{prefix}few_us": theirs}
        worst = max(spreads, key=lambda where: spreads[where].median)
        at = f", {worst} workspace" if worst else ""
        row = f"{name} of {what}{at}"
        report.add(ratio_row(row, spreads[worst], 1.2, results))
        report.compare(row, "ratio", ratios([each[2:] for each in found[worst]], quantity).median)


@contextmanager
def _filled(environment: Environment, name: str, total: int, known: int) -> Iterator[_Side]:
    with environment.server(name) as server:
        with server.caller() as caller:
            for workspace_id in (seed.MAIN, seed.SMALL, *seed.OTHERS):
                workspace = example_workspace()
                workspace.id = workspace_id
                caller.apply(workspace)
        keys = seed.fill(server.sql, total, callable_=known)
        with NaiveService.running(environment, server, [key.token for key in keys]) as application:
            yield _Side(environment, server, keys, application)
