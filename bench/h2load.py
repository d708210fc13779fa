"""Load from h2load, which needs a small part of ghz's CPU time: for servers that are faster than ghz.

It does not know gRPC: a call is a POST of a framed message, and every response with HTTP status 200 counts. So the
bytes that it received must be exactly those of that many whole responses; an error response has none.

In an open loop it looks at the clock every ten milliseconds for each connection, and sends what is due, including what
became due during a delay. The connections here start a millisecond apart, so that together they send evenly. It logs
when each call was sent and how long it took. Here latency counts from the time at which the call was due.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.cpu import cpu_seconds
from bench.load import JsonCalls, Sample, write_private
from skilder_keys.transports.framing import framed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.load import Calls, Target

_NAME = "h2load"
_CONNECTIONS = 4
_OPEN_LOOP_CONNECTIONS = 10
# Together fewer than a worker's limit of concurrent calls.
_STREAMS = 90
# For this long at the start and end, not every connection sends.
_EDGE_SECONDS = 0.025
_TIMEOUT = 120
_FRAME_BYTES = 5

_RATE = re.compile(r"^finished in \S+, ([0-9.]+) req/s", re.MULTILINE)
_SUCCEEDED = re.compile(r"^requests: .* (\d+) succeeded, .*\nstatus codes: (\d+) 2xx", re.MULTILINE)
_BYTES = re.compile(r"\((\d+)\) data$", re.MULTILINE)


class H2LoadMissingError(Exception):
    """h2load is not installed: it is in Debian's package nghttp2-client."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


def require_h2load() -> str:
    """Return the path of h2load.

    Raises:
        H2LoadMissingError: h2load is not installed.
    """
    found = shutil.which(_NAME)
    if found is None:
        raise H2LoadMissingError
    return found


class H2Load:
    """Makes calls with h2load. Requests go through files that nobody else may read."""

    def __init__(self, folder: Path, token: str) -> None:
        """Use this folder for files, and send the caller's token with every call, even to empty methods.

        h2load accepts headers only as arguments, which every user of the machine can read. So the token must be made
        for the run and be worth nothing: its holder may only authorize tokens that they already know, at servers on
        loopback that end with the run.
        """
        self._request = folder / "h2load.request"
        self._log = folder / "h2load.log"
        self._token = token

    def closed(
        self, target: Target, calls: Calls | JsonCalls, *, number: int, at_once: int, size: int, latencies: bool = False
    ) -> Sample:
        """Make calls in a closed loop, over one connection for each four at a time, but four at most.

        By HTTP/1.1 each call that is under way has a connection of its own.

        Args:
            target: The server to call.
            calls: The request, which is repeated.
            number: How many calls are made.
            at_once: The number of concurrent calls.
            size: The bytes of each response.
            latencies: Whether to measure latencies, for which h2load writes a log, which makes it slower.
        """
        by_json = isinstance(calls, JsonCalls)
        connections = min(at_once, number) if by_json else min(_CONNECTIONS, max(1, at_once // 4))
        flags = ("-c", str(connections), "-m", "1" if by_json else str(at_once // connections))
        sample, logged_calls = self._run(target, calls, flags, number, size, logged=latencies)
        latency = sorted(float(took) for _, took in logged_calls)
        return replace(sample, latencies=latency, from_sending=latency)

    def open(self, target: Target, calls: Calls, *, number: int, rate: int, size: int) -> Sample:
        """Make calls in an open loop, at this rate a second, over ten connections."""
        each = rate / _OPEN_LOOP_CONNECTIONS
        connections = ("-c", str(_OPEN_LOOP_CONNECTIONS), "-r", "1", "--rate-period", "1ms")
        flags = (*connections, "-m", str(_STREAMS), "--rps", f"{each:.3f}")
        sample, logged_calls = self._run(target, calls, flags, number, size, logged=True)
        edge = min(round(rate * _EDGE_SECONDS), len(logged_calls) // 4)
        whole = logged_calls[edge : len(logged_calls) - edge]
        from_sending = sorted(float(took) for _, took in whole)
        return replace(sample, latencies=_since_due(whole, rate), from_sending=from_sending)

    def _run(
        self, target: Target, calls: Calls | JsonCalls, flags: Sequence[str], number: int, size: int, *, logged: bool
    ) -> tuple[Sample, list[tuple[int, int]]]:
        """Return a sample without latencies and, if logged, when each call was sent and how long it took, in order."""
        self._log.unlink(missing_ok=True)
        shape, path, frame_bytes = self._written(calls)
        command = [
            *(require_h2load(), "-n", str(number), *flags, *shape),
            *("-H", f"authorization: Bearer {self._token}"),
            *((f"--log-file={self._log}",) if logged else ()),
            f"http://{target.address}{path}",
        ]
        before, own = (cpu_seconds(target.server), cpu_seconds(target.database)), _own_seconds()
        text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT).stdout
        server, database = cpu_seconds(target.server) - before[0], cpu_seconds(target.database) - before[1]
        own = _own_seconds() - own
        rate, succeeded, received = _RATE.search(text), _SUCCEEDED.search(text), _BYTES.search(text)
        if rate is None or succeeded is None or received is None:
            raise RuntimeError(f"h2load did not report its results: {text}")
        if {int(each) for each in succeeded.groups()} != {number} or int(received[1]) != number * (frame_bytes + size):
            raise RuntimeError(f"not every call succeeded: {succeeded[0]}, {received[1]} bytes")
        per_call = 1e6 / number
        sample = Sample((server + database) * per_call, database * per_call, float(rate[1]), (), (), own * per_call)
        return sample, _logged(self._log) if logged else []

    def _written(self, calls: Calls | JsonCalls) -> tuple[Sequence[str], str, int]:
        """Write the request; return flags, the path, and how many bytes are around the message of a response."""
        if isinstance(calls, JsonCalls):
            body = () if calls.body is None else ("-d", str(self._request), "-H", "content-type: application/json")
            write_private(self._request, calls.body or b"")
            return ("--h1", *body), calls.path, 0
        (request,) = calls.requests
        write_private(self._request, framed(request.SerializeToString()))
        headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
        return ("-d", str(self._request), *headers), f"/skilder.keys.v1.{calls.method}", _FRAME_BYTES


def _own_seconds() -> float:
    """Return the CPU time of all ended child processes, which includes generators that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _logged(log: Path) -> list[tuple[int, int]]:
    """Return for each call the microsecond at which it was sent and how many it took, in order of sending."""
    rows = (line.split("\t") for line in log.read_text("ascii").splitlines())
    return sorted((int(sent), int(took)) for sent, _, took in rows)


def _since_due(logged_calls: Sequence[tuple[int, int]], rate: int) -> list[float]:
    """Return latencies since each call was due, in microseconds, of calls in order of sending.

    Calls are due one interval after another. The first due time is not reported. It is taken as the latest time for
    which no call was sent before it was due.
    """
    interval = 1e6 / rate
    first = min(sent - number * interval for number, (sent, _) in enumerate(logged_calls))
    return sorted(sent + took - first - number * interval for number, (sent, took) in enumerate(logged_calls))
