"""A run: a fleet with clients and faults for a while; then everything is healed, and every key is checked."""

from __future__ import annotations

import asyncio
import tempfile
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from faults.bound import bounded
from faults.checker import check
from faults.clients import Clients
from faults.counts import compare
from faults.faults import EVERYTHING, Faults
from faults.fleet import running_fleet
from faults.history import OK, Apply, Denied, Failed, Issue, Recorder, Rotate, now
from faults.load import Load
from faults.meter import Meter
from faults.queries import Query
from tests.support.postgres_files import copy_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from faults.checker import Violation
    from faults.counts import CountReport
    from faults.fleet import Fleet
    from faults.history import Authorize, History

_LINES = 4
_LOOK_SECONDS = 0.5
_LAST_AT_ONCE = 16
_LAST_ATTEMPTS = 5
_SHOWN = 20
_TRACEBACKS_SHOWN = 3
_RIGHT_AFTER = 20_000_000
"""Nanoseconds."""
_LONGER = 60.0
"""How many seconds longer the load may go on, where there were too few calls."""
_PATIENCE = 120.0
"""How many seconds longer than its load a run may take before it counts as stuck."""
_STEPS = ("start", "be under load", "check every key", "end")


@dataclass(frozen=True)
class RunOptions:
    """What to run.

    Attributes:
        seed: Decides which faults come and what the clients do. The timing depends on the machine.
        seconds: How long clients and faults run.
        menu: The faults.
        transport: The transport of the servers.
        mutations: The mistakes in the workers of servers, by server. These use the grpcio transport.
        until: Returns whether the violations so far are enough to end the run early.
        enough: Returns whether there were enough calls. Clients and faults go on until there were, for up to a minute
            longer: on a busy machine, or where a server is down for long, fewer calls fit into the time.
        postgres_files: A data folder whose Postgres is copied, as making one takes long.
    """

    seed: int
    seconds: float
    menu: Sequence[str] = EVERYTHING
    transport: str = "grpcio"
    mutations: Mapping[str, str] = field(default_factory=dict)
    until: Callable[[Sequence[Violation]], bool] | None = None
    enough: Callable[[Report], bool] | None = None
    postgres_files: Path | None = None


@dataclass
class Report:
    """The result of a run."""

    options: RunOptions
    history: History
    violations: list[Violation]
    faults: list[tuple[int, str]]
    tracebacks: list[str]
    hits: Counter[str]
    seconds: list[float]
    audit_findings: list[str]
    activity: CountReport | None = None

    def right_after(self) -> int:
        """Return how many queries began within 20 ms after a change of their key or workspace had returned."""
        ends: dict[str, list[int]] = defaultdict(list)
        homes: dict[str, str] = {}
        for change in self.history.changes:
            if isinstance(change, Issue | Rotate):
                homes[change.key] = change.workspace
            if change.code == OK:
                ends[change.workspace if isinstance(change, Apply) else change.key].append(change.end)
        for each in ends.values():
            each.sort()

        def since_change(call: Authorize, name: str) -> int:
            before = bisect_left(ends[name], call.begin)
            return call.begin - ends[name][before - 1] if before else _RIGHT_AFTER

        return sum(
            min(since_change(call, call.key), since_change(call, homes[call.key])) < _RIGHT_AFTER
            for call in self.history.authorizations
        )

    def counts(self) -> Counter[str]:
        """Return the number of calls of each kind and outcome, e.g. `Granted near` and `Revoke OK`."""
        counts: Counter[str] = Counter()
        for call in self.history.authorizations:
            outcome = call.outcome
            counts[f"{type(outcome).__name__} {call.via}"] += 1
            if isinstance(outcome, Denied | Failed):
                counts[outcome.reason if isinstance(outcome, Denied) else outcome.code] += 1
        counts.update(f"{type(change).__name__} {change.code}" for change in self.history.changes)
        return counts

    def __str__(self) -> str:
        """For people: the seed first, which repeats the run."""
        start = min((change.begin for change in self.history.changes), default=0)
        lines = [f"seed {self.options.seed}, by {self.options.transport}, {len(self.violations)} violations"]
        lines += [f"  {(each.at - start) / 1e9:7.3f} s {each}" for each in self.violations[:_SHOWN]]
        lines += [f"  audit trail: {each}" for each in self.audit_findings[:_SHOWN]]
        if self.activity is not None:
            lines += [f"  {each}" for each in (self.activity, *self.activity.findings[:_SHOWN])]
        lines.append("the last faults:")
        lines += [f"  {(time - start) / 1e9:7.3f} s {name}" for time, name in self.faults[-_SHOWN:]]
        lines.append("calls: " + ", ".join(f"{name}: {count}" for name, count in sorted(self.counts().items())))
        lines.append("from memory: " + ", ".join(f"{name}: {count}" for name, count in sorted(self.hits.items())))
        lines.append(f"asked right after a change: {self.right_after()}")
        lines.append(
            "seconds to start, under load, to look at the end, to end: " + " ".join(f"{s:.1f}" for s in self.seconds)
        )
        lines += [f"logged by {line}" for line in self.tracebacks[:_TRACEBACKS_SHOWN]]
        return "\n".join(lines)


@dataclass
class _Progress:
    """The progress of a run: the times at which each step was done, the fleet, and the faults so far."""

    marks: list[int] = field(default_factory=lambda: [now()])
    fleet: Fleet | None = None
    faults: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        """For people: the step that does not end, and possible causes."""
        step = _STEPS[min(len(self.marks), len(_STEPS)) - 1]
        lines = [f"it was to {step}, for {(now() - self.marks[-1]) / 1e9:.0f} s; the last faults, and how long ago:"]
        lines += [f"  {(now() - time) / 1e9:7.3f} s {name}" for time, name in self.faults[-_SHOWN:]]
        return "\n".join([*lines, self.fleet.state() if self.fleet else "nothing runs yet"])


async def run(options: RunOptions) -> Report:
    """Run, and stop everything that was started. Raise StuckError if that takes too long."""
    progress = _Progress()

    def state() -> str:
        return f"seed {options.seed}, by {options.transport}, {options.seconds:.0f} s under load: {progress}"

    return await bounded(_run(options, progress), options.seconds + _LONGER + _PATIENCE, state)


async def _run(options: RunOptions, progress: _Progress) -> Report:
    recorder = Recorder()
    marks = progress.marks
    # Not in a folder of pytest's: see `tests.support.postgres`.
    with tempfile.TemporaryDirectory(prefix="skilder-keys-faults-") as name:
        if options.postgres_files is not None:
            copy_postgres(options.postgres_files, Path(name))
        async with running_fleet(Path(name), options.transport, options.mutations) as fleet:
            progress.fleet = fleet
            clients = Clients(fleet.addresses, recorder, _dice(options.seed, "clients"), _LINES)
            load = Load(clients, _dice(options.seed, "load"))
            faults = Faults(fleet, load, clients, _dice(options.seed, "faults"), progress.faults)
            meter = Meter({name: server.metrics_address for name, server in fleet.servers.items()})
            metering = asyncio.create_task(meter.run())
            try:
                await clients.until_served()
                await load.prepare()
                marks.append(now())
                watch = Watch(options, recorder, meter.hits, faults.done)
                well = await _under_load(watch, fleet, load, faults)
                marks.append(now())
                if well:
                    await clients.until_served()
                    await _check_every_key(clients, load, recorder)
                    marks.append(now())
                audit_findings = await fleet.postgres.audit_findings() if well else []
            finally:
                metering.cancel()
                await clients.close()
            await fleet.end()
            tracebacks = fleet.tracebacks()
            ids = {key.name: key.id for key in load.keys}
            activity = compare(recorder.authorizations, ids, await fleet.activity()) if well else None
    marks.append(now())
    history = recorder.history()
    seconds = [(after - before) / 1e9 for before, after in pairwise(marks)]
    return Report(
        options, history, check(history), faults.done, tracebacks, meter.hits, seconds, audit_findings, activity
    )


@dataclass
class Watch:
    """Looks at a run from time to time, and says when its load ends."""

    options: RunOptions
    recorder: Recorder
    hits: Counter[str]
    faults: list[tuple[int, str]]

    async def wait(self) -> bool:
        """Wait for the given time, and longer while there are too few calls; return False if violations ended that."""
        looked = 0
        violations: list[Violation] = []
        end = now() + self.options.seconds * 1e9
        while now() < end or (now() < end + _LONGER * 1e9 and not self._enough()):
            await asyncio.sleep(_LOOK_SECONDS)
            if self.options.until is not None:
                violations += check(self.recorder.history(since=looked))
                looked = len(self.recorder.authorizations)
                if self.options.until(violations):
                    return False
        return True

    def _enough(self) -> bool:
        enough = self.options.enough
        history = self.recorder.history()
        return enough is None or enough(Report(self.options, history, [], self.faults, [], self.hits, [], []))


async def _under_load(watch: Watch, fleet: Fleet, load: Load, faults: Faults) -> bool:
    """Run clients and faults for as long as the watch says; return False if violations ended that early."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        making = group.create_task(faults.run(watch.options.menu, stopping))
        well = await watch.wait()
        stopping.set()
        await making
        await fleet.heal()
        load.stop()
    return well


async def _check_every_key(clients: Clients, load: Load, recorder: Recorder) -> None:
    """Query every token that was ever returned, and list every key."""
    free = asyncio.Semaphore(_LAST_AT_ONCE)

    async def look(place: int) -> None:
        key = load.keys[place]
        for number in key.tokens:
            async with free:
                # A connection may reach its maximum age just then.
                for attempt in range(_LAST_ATTEMPTS):
                    line = clients.lines[(place + attempt) % len(clients.lines)]
                    if not isinstance(await clients.ask(Query(key, number), line, last=True), Failed):
                        break

    await asyncio.gather(*map(look, range(len(load.keys))))
    listed = await asyncio.gather(*map(clients.list_keys, load.workspaces))
    names = {key.id: key.name for key in load.keys}
    recorder.listed = {names[id_]: active for each in listed for id_, active in each.items() if id_ in names}


def _dice(seed: int, whose: str) -> Random:
    return Random(f"{seed} {whose}")  # noqa: S311 - a run must be repeatable, and has no secrets
