"""Load at a fixed rate with another key in each call, and a record of every call.

The load comes from the program in `bench/openloop`, which needs about a third of the worker's CPU time for a call.
Latency counts from the time at which a call was due, so that neither a slow server nor a delayed generator hides it.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import grpc
import psutil

from bench.cpu import cpu_seconds
from bench.load import ROOT, percentile, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

PROGRAM = ROOT / "build" / "bin" / "openloop"
MISSING = "openloop is needed but was not found: `make build/bin/openloop` builds it (needs Go)"

GRANTED, BUSY, LOST = "granted", "BUSY", "lost"
_RECORD = struct.Struct("<qqihh")
_VERDICTS = {1: GRANTED, 2: "denied", 3: BUSY}
_OWN_STATUSES = {113: "reset", 114: LOST, 115: "unanswered"}
_CODES: Mapping[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_PATIENCE = 20.0
_START_SECONDS = 60.0
_MOST_SECONDS = 300.0
_BUSY = 0.6
_TRIES, _TRY_SECONDS, _LEAST_RATE = 2, 2.4, 100.0
_GROWS, _SHORT = 1.2, 3.0
"""A median that grows by more than this factor within a third of a try, and is not as short as this (ms), goes on."""


class Call(NamedTuple):
    """A call: when it was due, in seconds from the beginning, how many ms it took, its request and its outcome."""

    due: float
    took: float
    request: int
    outcome: str


@dataclass(frozen=True)
class Timeline:
    """The calls of a load, in order of their due times.

    Attributes:
        calls: All of them.
        probes: The number of the first request that is a probe.
        cpu: CPU seconds of the server and its database meanwhile.
        generator: CPU seconds of the generator.
    """

    calls: Sequence[Call] = field(repr=False)
    probes: int
    cpu: float
    generator: float

    def took(self, begin: float, end: float, *, probes: bool = False) -> list[float]:
        """Return the sorted latencies, in ms, of the calls that were due in a time: the probes', or all others'."""
        return sorted(call.took for call in self._due(begin, end) if (call.request >= self.probes) == probes)

    def percent(self, percent: float, begin: float, end: float) -> float:
        """Return a percentile of these latencies."""
        return percentile(self.took(begin, end), percent)

    def outcomes(self, begin: float = 0.0, end: float = float("inf")) -> Counter[str]:
        """Return how many calls that were due in a time had each outcome."""
        return Counter(call.outcome for call in self._due(begin, end))

    def _due(self, begin: float, end: float) -> Sequence[Call]:
        due = attrgetter("due")
        return self.calls[bisect_left(self.calls, begin, key=due) : bisect_left(self.calls, end, key=due)]

    @property
    def rate(self) -> float:
        """The calls a second."""
        return len(self.calls) / max(call.due + call.took / 1000 for call in self.calls)

    @property
    def refused(self) -> int:
        """How many calls were not granted."""
        return sum(call.outcome != GRANTED for call in self.calls)

    def require_granted(self) -> None:
        """Fail if a call was not granted."""
        found = self.outcomes()
        if set(found) - {GRANTED}:
            raise RuntimeError(f"not every call was granted: {dict(found)}")


@dataclass(frozen=True)
class Asked:
    """What is called.

    Attributes:
        address: HOST:PORT.
        path: The path of the method.
        requests: The bodies, without frames.
        probes: More bodies, for every `probe_every`-th call.
        protocol: gRPC, or JSON over HTTP/1.1 with one call at a time on a connection.
        processes: The parents of the processes that work for the calls.
        pick: Returns the connections to use, given the local ports of those that were made.
        connections: How many are made.
    """

    address: str
    path: str
    requests: Sequence[bytes] = field(repr=False)
    processes: Sequence[psutil.Process | None]
    pick: Callable[[Sequence[int]], Sequence[int]]
    connections: int
    probes: Sequence[bytes] = field(repr=False, default=())
    probe_every: int = 5
    protocol: Literal["grpc", "json"] = "grpc"


class Load:
    """A load that runs.

    Attributes:
        timeline: The calls, once the load has ended.
    """

    timeline: Timeline

    def __init__(self, began: float) -> None:
        self._began = began

    def now(self) -> float:
        """Return the seconds since the load began."""
        return time.time() - self._began

    def sleep_until(self, seconds: float) -> float:
        """Sleep until so many seconds after the beginning; return the time since then."""
        time.sleep(max(0.0, seconds - self.now()))
        return self.now()


class OpenLoop:
    """Makes calls with the program. What it sends goes through files that nobody else may read."""

    def __init__(self, folder: Path, token: str) -> None:
        """Use this folder for files, and send the caller's token with every call."""
        self._folder = folder
        self._token = token
        self._runs = 0

    @contextmanager
    def running(self, asked: Asked, rate: float, seconds: float) -> Iterator[Load]:
        """Make calls at a rate a second, each with another request, for the duration of the context at least."""
        with self._run(asked, Rate=rate, Seconds=seconds) as load:
            yield load

    def once(self, asked: Asked, at_once: int) -> Timeline:
        """Make each call once, with so many at a time."""
        with self._run(asked, AtOnce=at_once) as load:
            pass
        return load.timeline

    @contextmanager
    def _run(self, asked: Asked, **job: float) -> Iterator[Load]:
        if not PROGRAM.exists():
            raise RuntimeError(MISSING)
        self._runs += 1
        files = {name: self._folder / f"openloop-{self._runs}.{name}" for name in ("job", "requests", "log")}
        bodies = (*asked.requests, *asked.probes)
        write_private(files["requests"], b"".join(struct.pack("<I", len(body)) + body for body in bodies))
        whole: dict[str, Any] = {
            "Address": asked.address,
            "Protocol": asked.protocol,
            "Path": asked.path,
            "Caller": f"Bearer {self._token}",
            "Requests": str(files["requests"]),
            "Probes": len(asked.probes),
            "ProbeEvery": asked.probe_every,
            "Connections": asked.connections,
            "Patience": _PATIENCE,
            "Log": str(files["log"]),
        }
        write_private(files["job"], json.dumps(whole | job).encode())
        before = _cpu(asked)
        with subprocess.Popen([PROGRAM, files["job"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                load = Load(_begin(process, asked.pick))
                yield load
                if process.wait(_MOST_SECONDS) != 0:
                    raise RuntimeError("the generator failed")
            finally:
                process.kill()
        own = os.times().children_user + os.times().children_system - before[1]
        load.timeline = Timeline(_read(files["log"]), len(asked.requests), _cpu(asked)[0] - before[0], own)
        for file in files.values():
            file.unlink()


def _begin(process: subprocess.Popen[bytes], pick: Callable[[Sequence[int]], Sequence[int]]) -> float:
    """Pick connections and return when the load began."""
    assert process.stdin is not None
    assert process.stdout is not None
    ports = [int(port) for port in process.stdout.readline().split()]
    if not ports:
        raise RuntimeError("the generator could not connect")
    process.stdin.write(" ".join(map(str, pick(ports))).encode() + b"\n")
    process.stdin.flush()
    return int(process.stdout.readline()) / 1e9


def _cpu(asked: Asked) -> tuple[float, float]:
    """Return the CPU seconds of what is called, and of all child processes of this one that have ended."""
    own = os.times()
    return sum(cpu_seconds(each) for each in asked.processes), own.children_user + own.children_system


def _read(log: Path) -> list[Call]:
    calls = [
        Call(due / 1e9, took / 1e6, request, _outcome(status, verdict))
        for due, took, request, status, verdict in _RECORD.iter_unpack(log.read_bytes())
    ]
    # A call without a response took as long as its caller waited.
    end = max((call.due + call.took / 1000 for call in calls), default=0.0)
    unanswered = _OWN_STATUSES[115]
    return [call._replace(took=(end - call.due) * 1000) if call.outcome == unanswered else call for call in calls]


def _outcome(status: int, verdict: int) -> str:
    if status == 0 or (verdict and _VERDICTS[verdict] == BUSY):
        return _VERDICTS.get(verdict, "neither granted nor denied")
    return _OWN_STATUSES.get(status) or _CODES.get(status, f"HTTP {status}")


def bearable(load_at: Callable[[float], Callable[[float], AbstractContextManager[Load]]], wanted: float) -> float:
    """Return this rate, if latency does not grow under it; otherwise one that takes about 60 % of the machine.

    That is with the generator and Postgres. A call costs less where a server is overloaded and many calls wait. So the
    lower rate is tried as well.
    """
    rate = wanted
    for _ in range(_TRIES):
        with load_at(rate)(_TRY_SECONDS) as running:
            pass
        found = running.timeline
        busy = (found.cpu + found.generator) / (_TRY_SECONDS * (psutil.cpu_count() or 1))
        if busy <= _BUSY or (rate == wanted and _stable(found)):
            return rate
        rate = max(_LEAST_RATE, round(rate * _BUSY / busy, -2))
    return rate


def _stable(found: Timeline) -> bool:
    """Return whether all calls were granted, and the last ones took no longer than those before: no queue grows."""
    third = _TRY_SECONDS / 3
    before, last = (found.percent(50, number * third, (number + 1) * third) for number in (1, 2))
    return not found.refused and last <= max(_GROWS * before, _SHORT)
