"""A bound on log lines that anybody can cause: the first of a kind are logged, the others of a minute are counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    Kind = tuple[tuple[str, str], ...]

LINES = 100
"""How many lines of a kind are logged in a minute."""
SECONDS = 60.0

# Callers may be very many: what comes over this counts as one kind. The same for the addresses of a kind.
_MAX_KINDS = 1000
_MAX_HOSTS = 100
_OTHERS = "others"
_TOLD_HOSTS = 3


@dataclass(slots=True)
class _Window:
    """Lines of a kind in this minute.

    Attributes:
        lines: How many there were.
        hosts: How many of those that were not logged were about each address.
    """

    lines: int = 0
    hosts: Counter[str] = field(default_factory=Counter)


class LogLimiter:
    """Decides which lines are logged, and logs how many were not."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._floods: dict[Kind, _Window] = {}

    def admits(self, peer: str, **kind: str) -> bool:
        """Tell whether a line is to be logged, and count it.

        Args:
            peer: The client's address, with a port.
            kind: What makes it one of a kind, such as its method and code. `report` logs the same.
        """
        key: Kind = tuple(kind.items())
        flood = self._floods.get(key)
        if flood is None:
            if len(self._floods) >= _MAX_KINDS:
                key = (("kind", _OTHERS),)
            flood = self._floods.setdefault(key, _Window())
        flood.lines += 1
        if flood.lines <= LINES:
            return True
        host = peer.rpartition(":")[0]
        flood.hosts[host if host in flood.hosts or len(flood.hosts) < _MAX_HOSTS else _OTHERS] += 1
        return False

    def report(self) -> None:
        """Log how many lines of each kind were not logged, and from where most of them came; begin a new minute."""
        log_limiter, self._floods = self._floods, {}
        for kind, flood in log_limiter.items():
            if flood.hosts:
                hosts = dict(flood.hosts.most_common(_TOLD_HOSTS))
                self._log.warning("lines not logged", count=flood.hosts.total(), peers=hosts, **dict(kind))

    async def run(self) -> NoReturn:
        """Report each minute until it is cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            self.report()
