"""A limit for log lines that anybody can cause: in each minute, the first of a kind are logged, the others counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    LeftOut = Callable[[int, Mapping[str, int], Mapping[str, str]], object]
    """Called with a count of lines, the most frequent addresses with theirs, and the kind of the lines."""

    Kind = tuple[tuple[str, str], ...]

LINES = 100
"""How many lines of a kind are logged in a minute."""
SECONDS = 60.0

# There can be very many callers. Further kinds count as one kind, and further addresses of a kind as one address.
_MAX_KINDS = 1000
_MAX_HOSTS = 100
_OTHERS = "others"
_REPORTED_HOSTS = 3


@dataclass(slots=True)
class _Window:
    """The lines of a kind in this minute.

    Attributes:
        lines: The number of lines.
        hosts: The number of lines that were not logged, by address.
    """

    lines: int = 0
    hosts: Counter[str] = field(default_factory=Counter)


class LogLimiter:
    """Decides which lines are logged, and reports how many were not."""

    def __init__(self, left_out: LeftOut, lines: int = LINES) -> None:
        """Make a limiter.

        Args:
            left_out: Called for each kind of which lines were left out, each minute.
            lines: How many lines of a kind are logged in a minute.
        """
        self._left_out = left_out
        self._lines = lines
        self._windows: dict[Kind, _Window] = {}

    def admits(self, peer: str, **kind: str) -> bool:
        """Count a line, and return whether to log it.

        Args:
            peer: The client's address, with a port.
            kind: The values that all lines of the kind have, such as method and code. `report` logs them.
        """
        key: Kind = tuple(kind.items())
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= _MAX_KINDS:
                key = (("kind", _OTHERS),)
            window = self._windows.setdefault(key, _Window())
        window.lines += 1
        if window.lines <= self._lines:
            return True
        host = peer.rpartition(":")[0]
        window.hosts[host if host in window.hosts or len(window.hosts) < _MAX_HOSTS else _OTHERS] += 1
        return False

    def report(self) -> None:
        """Report how many lines of each kind were not logged, with the most frequent addresses; begin a new minute."""
        windows, self._windows = self._windows, {}
        for kind, window in windows.items():
            if window.hosts:
                hosts = dict(window.hosts.most_common(_REPORTED_HOSTS))
                self._left_out(window.hosts.total(), hosts, dict(kind))

    async def run(self) -> NoReturn:
        """Report every minute, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            self.report()


def limiter_of(log: FilteringBoundLogger) -> LogLimiter:
    """Return a limiter of the lines of a log, which gets a line about those that were left out."""
    return LogLimiter(partial(_log_left_out, log))


def _log_left_out(log: FilteringBoundLogger, count: int, peers: Mapping[str, int], kind: Mapping[str, str]) -> None:
    log.warning("lines not logged", count=count, peers=dict(peers), **kind)
