"""The interface between a worker and a transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from skilder_keys.config import Settings
    from skilder_keys.rpc.call_metrics import CallMetrics
    from skilder_keys.rpc.fast_path import FastPath
    from skilder_keys.rpc.pipeline import Serve, ServeStream
    from skilder_keys.rpc.public import PublicMethod


@dataclass(frozen=True, slots=True)
class Api:
    """All methods that a server serves.

    Attributes:
        methods: The methods whose calls pass the pipeline, by path.
        streams: The methods that pass the pipeline and respond with a stream, by path.
        fast_paths: The fast paths that some of these methods have, by path.
        public: The methods that anybody may call.
        calls: The metrics of the calls. The transport adds those of public methods, and those that it refuses.
    """

    methods: Mapping[str, Serve]
    streams: Mapping[str, ServeStream]
    fast_paths: Mapping[str, FastPath]
    public: Sequence[PublicMethod]
    calls: CallMetrics


class Frontend(Protocol):
    """The listener of one transport, which receives the calls. Call `start` once, and `stop` once.

    Attributes:
        name: The name of the transport, as in `Settings.transport`.
    """

    name: str

    async def start(self, api: Api, settings: Settings) -> str:
        """Listen, start to serve calls, and return the address, HOST:PORT.

        Raises:
            ListenError: The address is in use, or this machine does not have it.
        """

    async def stop(self, seconds: float) -> None:
        """Accept no more calls, and wait until no call is left, at most this many seconds. `start` may have failed."""

    async def metrics(self) -> list[Metric]:
        """Return the metrics that the transport itself collects."""
