"""Load from h2load, which takes a small part of ghz's CPU time: for servers that answer faster than ghz can ask.

It knows nothing of gRPC: a call is a POST of a message behind its five bytes, and every answer with status 200 counts.
So what it tells of the bytes it got must be what that many whole answers have; a refusal has none.

In an open loop it looks at the clock every ten milliseconds, for each connection, and sends what is due by then, what
fell due while it was held up included. The connections here begin a millisecond apart, so that together they send
little by little. It logs when each call was sent, and what it took; latency is counted here since the call was due.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.cpu import cpu_seconds
from bench.load import Sample, write_private
from skilder_keys.transports.framing import framed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.load import Calls, Target

_NAME = "h2load"
_CONNECTIONS = 4
_OPEN_LOOP_CONNECTIONS = 10
# Together fewer than a worker takes at a time.
_STREAMS = 90
# So long not every connection sends yet, or any more.
_EDGE_SECONDS = 0.025
_TIMEOUT = 120
_FRAME_BYTES = 5

_RATE = re.compile(r"^finished in \S+, ([0-9.]+) req/s", re.MULTILINE)
_ANSWERED = re.compile(r"^requests: .* (\d+) succeeded, .*\nstatus codes: (\d+) 2xx", re.MULTILINE)
_BYTES = re.compile(r"\((\d+)\) data$", re.MULTILINE)


class H2LoadMissingError(Exception):
    """h2load is not installed: it is in Debian's package nghttp2-client."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


def require_h2load() -> str:
    """Return where h2load is.

    Raises:
        H2LoadMissingError: It is not installed.
    """
    found = shutil.which(_NAME)
    if found is None:
        raise H2LoadMissingError
    return found


class H2Load:
    """Makes calls by h2load. Requests go through files that nobody else may read."""

    def __init__(self, folder: Path, token: str) -> None:
        """Take a folder for its files, and the caller's token, which every call carries, an empty one's too.

        h2load takes headers as arguments only, where every user of the machine can read them. So the token must be
        one that is made for the run and is worth nothing: it lets its holder ask for decisions, of servers on loopback
        that end with the run, about tokens which the holder has to know.
        """
        self._request = folder / "h2load.request"
        self._log = folder / "h2load.log"
        self._token = token

    def closed(
        self, target: Target, calls: Calls, *, number: int, at_once: int, size: int, latencies: bool = False
    ) -> Sample:
        """Make calls in a closed loop, over one connection for each four at a time, but four at most.

        Args:
            target: What is called.
            calls: What is asked, which is one request, again and again.
            number: How many calls are made.
            at_once: How many are under way at any time.
            size: The bytes of each answer.
            latencies: Whether to tell them, which makes h2load write to its log, and so slower.
        """
        connections = min(_CONNECTIONS, max(1, at_once // 4))
        flags = ("-c", str(connections), "-m", str(at_once // connections))
        sample, told = self._run(target, calls, flags, number, size, logged=latencies)
        latency = sorted(float(took) for _, took in told)
        return replace(sample, latencies=latency, from_sending=latency)

    def open(self, target: Target, calls: Calls, *, number: int, rate: int, size: int) -> Sample:
        """Make calls in an open loop, so many a second, over ten connections."""
        each = rate / _OPEN_LOOP_CONNECTIONS
        connections = ("-c", str(_OPEN_LOOP_CONNECTIONS), "-r", "1", "--rate-period", "1ms")
        flags = (*connections, "-m", str(_STREAMS), "--rps", f"{each:.3f}")
        sample, told = self._run(target, calls, flags, number, size, logged=True)
        edge = min(round(rate * _EDGE_SECONDS), len(told) // 4)
        whole = told[edge : len(told) - edge]
        from_sending = sorted(float(took) for _, took in whole)
        return replace(sample, latencies=_since_due(whole, rate), from_sending=from_sending)

    def _run(
        self, target: Target, calls: Calls, flags: Sequence[str], number: int, size: int, *, logged: bool
    ) -> tuple[Sample, list[tuple[int, int]]]:
        """Return a sample without latencies and, if logged, when each call was sent and what it took, in order."""
        (request,) = calls.requests
        write_private(self._request, framed(request.SerializeToString()))
        self._log.unlink(missing_ok=True)
        command = [
            *(require_h2load(), "-d", str(self._request), "-n", str(number), *flags),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            *("-H", f"authorization: Bearer {self._token}"),
            *((f"--log-file={self._log}",) if logged else ()),
            f"http://{target.address}/skilder.keys.v1.{calls.method}",
        ]
        before, own = (cpu_seconds(target.server), cpu_seconds(target.database)), _own_seconds()
        text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT).stdout
        server, database = cpu_seconds(target.server) - before[0], cpu_seconds(target.database) - before[1]
        own = _own_seconds() - own
        rate, answered, received = _RATE.search(text), _ANSWERED.search(text), _BYTES.search(text)
        if rate is None or answered is None or received is None:
            raise RuntimeError(f"h2load does not tell what it did: {text}")
        if {int(each) for each in answered.groups()} != {number} or int(received[1]) != number * (_FRAME_BYTES + size):
            raise RuntimeError(f"not every call was answered: {answered[0]}, {received[1]} bytes")
        per_call = 1e6 / number
        sample = Sample((server + database) * per_call, database * per_call, float(rate[1]), (), (), own * per_call)
        return sample, _logged(self._log) if logged else []


def _own_seconds() -> float:
    """Return the CPU time of all that this process has started and waited for: of generators, when one has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _logged(log: Path) -> list[tuple[int, int]]:
    """Return of each call the microsecond it was sent at, and how many it took, in order of sending."""
    rows = (line.split("\t") for line in log.read_text("ascii").splitlines())
    return sorted((int(sent), int(took)) for sent, _, took in rows)


def _since_due(told: Sequence[tuple[int, int]], rate: int) -> list[float]:
    """Return latencies since each call was due, in microseconds, of calls in order of sending.

    Calls are due one interval after another. When the first of these was is not told: at the latest moment for which
    none was sent before it was due.
    """
    interval = 1e6 / rate
    first = min(sent - number * interval for number, (sent, _) in enumerate(told))
    return sorted(sent + took - first - number * interval for number, (sent, took) in enumerate(told))
