"""Load from ghz, a compiled generator, and its cost to the server's processes.

In a closed loop the number of concurrent calls is constant: the next call is sent when one has ended. That keeps a
server busy, which is good for measuring CPU time. Its latencies mean little, since a slow server gets fewer calls.

In an open loop calls are sent by the clock at a constant rate, whether or not earlier calls have ended. ghz starts each
in its own goroutine (`--async`), so none waits for another. But ghz counts latency from the time at which the call
started, not from the time at which it was due. Its report says when each call ended and how long it took. From that and
the simple schedule, latency is counted here from the time at which the call was due, so that a delayed generator does
not hide it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cpu import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psutil
    from google.protobuf.message import Message

ROOT = Path(__file__).parents[1]
_GHZ = ROOT / "build" / "bin" / "ghz"
_PROTO = Path(__file__).with_name("opaque.proto")
# A server takes a hundred calls on each at a time; a machine that stalls for half a second makes that many wait.
_OPEN_LOOP_CONNECTIONS = 10
_TIMEOUT = 300


@dataclass(frozen=True)
class Target:
    """A server to load.

    Attributes:
        address: Its address, on loopback.
        server: Its process, whose descendants work for it too.
        database: The parent of the Postgres processes that work for it, if any.
    """

    address: str
    server: psutil.Process
    database: psutil.Process | None = None


@dataclass(frozen=True)
class Calls:
    """Calls of one method.

    Attributes:
        method: The method, like `AuthorizationService/Authorize`.
        requests: The requests, sent one after another and then from the first again.
    """

    method: str
    requests: Sequence[Message] = field(repr=False)


@dataclass(frozen=True)
class JsonCalls:
    """Calls of an application by HTTP/1.1.

    Attributes:
        path: The path.
        body: The JSON of each request, or None for a GET.
    """

    path: str
    body: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Sample:
    """The cost of one run of calls.

    Attributes:
        cpu: CPU time of the server and its database, in microseconds a call.
        database_cpu: The database's part of that.
        rate: Calls a second.
        latencies: The latency of each call in microseconds, sorted; in an open loop since the call was due.
        from_sending: The latency of each call since it was sent.
        generator: CPU time of the generator, in microseconds a call, where it is known.
    """

    cpu: float
    database_cpu: float
    rate: float
    latencies: Sequence[float] = field(repr=False)
    from_sending: Sequence[float] = field(repr=False)
    generator: float = 0.0

    @property
    def server_cpu(self) -> float:
        """The CPU time of the server alone."""
        return self.cpu - self.database_cpu

    @property
    def p50(self) -> float:
        """The median latency."""
        return percentile(self.latencies, 50)

    @property
    def p99(self) -> float:
        """The latency that one call in a hundred exceeds."""
        return percentile(self.latencies, 99)

    @property
    def sent_p50(self) -> float:
        """The median latency since sending."""
        return percentile(self.from_sending, 50)

    @property
    def sent_p99(self) -> float:
        """The latency since sending that one call in a hundred exceeds."""
        return percentile(self.from_sending, 99)


class CallsFailedError(Exception):
    """Not every call succeeded."""

    def __init__(self, errors: Mapping[str, int]) -> None:
        super().__init__(f"{self.__doc__} {dict(errors)}")


class Generator:
    """Makes calls with ghz. What it sends goes through files that nobody else may read, never through arguments."""

    def __init__(self, folder: Path, token: str) -> None:
        """Use this folder for files, and send the caller's token with every call, even to empty methods."""
        self._requests = folder / "requests.bin"
        self._metadata = folder / "metadata.json"
        write_private(self._metadata, json.dumps({"authorization": f"Bearer {token}"}).encode())

    def closed(self, target: Target, calls: Calls, *, number: int, at_once: int, settle: float = 0.0) -> Sample:
        """Make calls in a closed loop, over one connection for each four at a time.

        Args:
            target: What is called.
            calls: The calls to make.
            number: How many calls are made.
            at_once: How many are under way at any time.
            settle: Seconds to wait after the last call, so that the CPU time includes later work.
        """
        flags = ("-c", str(at_once), "--connections", str(max(1, at_once // 4)))
        return self._run(target, calls, flags, number, settle, rate=None)

    def open(self, target: Target, calls: Calls, *, number: int, rate: int) -> Sample:
        """Make calls in an open loop, at this rate a second, over ten connections."""
        connections = str(_OPEN_LOOP_CONNECTIONS)
        flags = ("--async", "--rps", str(rate), "-c", connections, "--connections", connections)
        return self._run(target, calls, flags, number, 0.0, rate=rate)

    def _run(
        self, target: Target, calls: Calls, flags: Sequence[str], number: int, settle: float, rate: int | None
    ) -> Sample:
        write_private(self._requests, b"".join(_counted(request.SerializeToString()) for request in calls.requests))
        command = [
            *(str(_GHZ), "--insecure", "--proto", str(_PROTO), "--call", f"skilder.keys.v1.{calls.method}"),
            *("-B", str(self._requests), "-M", str(self._metadata), "-n", str(number), "-O", "json", *flags),
            target.address,
        ]
        before = cpu_seconds(target.server), cpu_seconds(target.database)
        report = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT).stdout)
        time.sleep(settle)
        server, database = cpu_seconds(target.server) - before[0], cpu_seconds(target.database) - before[1]
        if report["statusCodeDistribution"] != {"OK": number}:
            raise CallsFailedError(report["errorDistribution"])
        from_sending = sorted(each["latency"] / 1000 for each in report["details"])
        latencies = from_sending if rate is None else _since_due(report["details"], rate)
        per_call = 1e6 / number
        return Sample((server + database) * per_call, database * per_call, report["rps"], latencies, from_sending)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the least value that this percentage of all values does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _since_due(details: Sequence[dict[str, Any]], rate: int) -> list[float]:
    """Return the latencies of an open loop since each call was due, in microseconds.

    Call number k is due k intervals after the first. ghz does not report when the first was due. It is taken as the
    latest time for which no call was sent before it was due. ghz does not number the calls: they count in order of
    sending.
    """
    interval = 1_000_000_000 // rate / 1000  # whole nanoseconds, as in ghz
    ended = [(datetime.fromisoformat(each["timestamp"]).timestamp() * 1e6, each["latency"] / 1000) for each in details]
    ended.sort(key=lambda call: call[0] - call[1])
    first = min(end - latency - number * interval for number, (end, latency) in enumerate(ended))
    return sorted(end - first - number * interval for number, (end, _) in enumerate(ended))


def _counted(message: bytes) -> bytes:
    """Return a message after its length as a varint, as ghz reads several from one file."""
    length, head = len(message), bytearray()
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*head, length)) + message


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read, not even for a moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
