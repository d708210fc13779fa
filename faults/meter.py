"""How many decisions each worker made from memory: a run with few of them would prove little."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

_HITS = re.compile(r'^skilder_keys_cache_hits_total\{worker="(\w+)"\} (\S+)$', re.MULTILINE)
_EVERY_SECONDS = 0.5


class Meter:
    """Reads the servers' metrics repeatedly, because the counts of a worker end with it.

    Attributes:
        hits: The decisions from memory of each worker and its successors, by a name like `near 0`.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """Make a meter of servers, given with the addresses of their metrics."""
        self.hits: Counter[str] = Counter()
        self._addresses = addresses
        self._last: Counter[str] = Counter()

    async def run(self) -> NoReturn:
        """Read until cancelled."""
        while True:
            for server, address in self._addresses.items():
                # A server that is down reports nothing.
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(1):
                        self._note(server, await _read(address))
            await asyncio.sleep(_EVERY_SECONDS)

    def _note(self, server: str, text: str) -> None:
        for worker, value in _HITS.findall(text):
            name, hits = f"{server} {worker}", round(float(value))
            last = self._last[name]
            self.hits[name] += hits - last if hits >= last else hits
            self._last[name] = hits


async def _read(address: str) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        return (await reader.read()).decode()
    finally:
        writer.close()
