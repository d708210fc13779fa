"""What every transport offers to a worker, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from prometheus_client.metrics_core import Metric

    from skilder_keys.config import Settings
    from skilder_keys.rpc.fast_path import FastPath
    from skilder_keys.rpc.pipeline import Serve
    from skilder_keys.rpc.public import PublicMethod


@dataclass(frozen=True, slots=True)
class Api:
    """All that a server serves.

    Attributes:
        methods: The methods, which pass the pipeline, by their paths.
        fast_paths: The fast paths of some of them, by the same paths.
        public: The methods that anybody may call.
        calls: Where calls of public methods are counted, by method and code.
    """

    methods: Mapping[str, Serve]
    fast_paths: Mapping[str, FastPath]
    public: Sequence[PublicMethod]
    calls: MutableMapping[tuple[str, str], int]


class Frontend(Protocol):
    """Where calls come in: the listener of one transport. Call `start` once, then `stop` once."""

    async def start(self, api: Api, settings: Settings) -> str:
        """Listen, serve calls from now on, and return the address, HOST:PORT.

        Raises:
            ListenError: The address is taken, or this machine does not have it.
        """

    async def stop(self, seconds: float) -> None:
        """Take no more calls; return when no call is left, or after this many seconds. It need not have started."""

    async def metrics(self) -> list[Metric]:
        """Return the metrics that the transport counts by itself."""
