"""The workers of a server: started, replaced where one is gone or frozen, changed in turn, ended together."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NoReturn

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from skilder_keys.supervisor.metrics import merge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.supervisor.worker_process import WorkerProcess

_SHORT_LIFE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 5.0
_PING_SECONDS = 1.0
# A worker on a machine that has much to do may be late.
_PINGS_TO_BE_READY = 3


class WorkerPool:
    """The workers, one for each index from zero on.

    Attributes:
        restarts: How many were started in place of one that had ended by itself, or was frozen.
        freezes: How many were killed since they did not answer.
    """

    def __init__(
        self,
        start: Callable[[int], Awaitable[WorkerProcess]],
        log: FilteringBoundLogger,
        *,
        end_seconds: float,
        handover_seconds: float,
        frozen_seconds: float,
    ) -> None:
        """Take how to start a worker, and the limits.

        Args:
            start: Starts the worker of an index.
            log: The log.
            end_seconds: The most seconds that a worker may take to end.
            handover_seconds: The most seconds that it may take to hand over.
            frozen_seconds: The most seconds that it may take to answer a ping; 0 for no limit.
        """
        self.restarts = 0
        self.freezes = 0
        self._start = start
        self._log = log
        self._end_seconds = end_seconds
        self._handover_seconds = handover_seconds
        # Counted in pings that this process has sent, and not by a clock: while the machine sleeps, or this process is
        # stopped or late itself, no time passes for the workers.
        self._frozen_pings = math.ceil(frozen_seconds / _PING_SECONDS)
        self._pinging: asyncio.Task[NoReturn] | None = None
        self._current: dict[int, WorkerProcess] = {}
        self._handing_over: WorkerProcess | None = None
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._short_lives: dict[int, int] = {}
        # One at a time is put in place, so that the order in which the workers began to listen is known.
        self._turn = asyncio.Lock()

    async def start(self, count: int) -> None:
        """Starts all, and returns when they serve. Raises as `WorkerProcess.start` does."""
        self._pinging = asyncio.create_task(self._ping())
        # The first goes ahead: what it finds wrong is told once, and what a first start makes is made once.
        await self._put(0)
        tasks = [asyncio.create_task(self._put(index)) for index in range(1, count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self) -> None:
        """Replaces each worker by a new one, in turn; where one does not come up, the others stay as they are."""
        for index in sorted(self._current):
            async with self._turn:
                listening = sum(worker.runs for worker in self._current.values())
                old = self._current[index]
                try:
                    await self._put(index)
                except Exception as error:  # noqa: BLE001 - whatever it is, the old ones serve on
                    self._log.error("reload failed: the old workers stay", worker=index, error=_words(error))
                    return
                self._handing_over = old
                old.hand_over(successor=listening)
            await old.end_within(self._handover_seconds + self._end_seconds)
            self._handing_over = None
            self._log.info("worker replaced", worker=index, pid=old.pid)
        self._log.info("reloaded")

    async def end(self) -> None:
        """End all, at the same time: their calls may end, within the time they have."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in self._all()))
        if self._pinging is not None:
            self._pinging.cancel()

    async def _end(self, worker: WorkerProcess) -> None:
        await worker.end(self._end_seconds)
        self._log.info("worker ended", worker=worker.index, pid=worker.pid, code=await worker.ended())

    def kill(self) -> None:
        """Kill all."""
        for worker in self._all():
            worker.kill()

    def why_not_ready(self) -> str | None:
        """Return None while at least one worker serves and reaches the database, else what is missing."""
        answering = [each for each in self._current.values() if each.runs and each.unanswered < _PINGS_TO_BE_READY]
        if not answering:
            return "no worker serves"
        return None if any(each.serving for each in answering) else "no worker reaches the database"

    async def metrics(self) -> list[Metric]:
        """Answers the metrics of all workers, merged, and of the workers themselves."""
        # Others may take their places, and more may be started, while these are asked.
        indexes = sorted(self._current)
        asked = {str(index): self._current[index] for index in indexes}
        if self._handing_over is not None:
            # It counts on until it has ended, under a name of its own: its successor counts from zero.
            asked[f"{self._handing_over.index}-handover"] = self._handing_over
        found = dict(zip(asked, await asyncio.gather(*(each.metrics() for each in asked.values())), strict=True))
        up = GaugeMetricFamily("skilder_keys_worker_up", "Whether the worker answers its parent.", labels=["worker"])
        for index in indexes:
            up.add_metric([str(index)], found[str(index)] is not None)
        restarts = CounterMetricFamily(
            "skilder_keys_worker_restarts",
            "Workers started in place of one that had ended by itself or was frozen.",
            self.restarts,
        )
        freezes = CounterMetricFamily(
            "skilder_keys_worker_freezes", "Workers killed since they did not answer their parent.", self.freezes
        )
        return [up, restarts, freezes, *merge({worker: each for worker, each in found.items() if each is not None})]

    def _all(self) -> list[WorkerProcess]:
        return [*([self._handing_over] if self._handing_over is not None else []), *self._current.values()]

    async def _ping(self) -> NoReturn:
        """Ping the workers again and again, and kill those that do not answer, so that others take their places."""
        while True:
            await asyncio.sleep(_PING_SECONDS)
            for worker in self._all():
                if not worker.runs:
                    continue
                worker.ping()
                if worker.unanswered >= self._frozen_pings > 0:
                    self._log.error("a worker is frozen: killing it", worker=worker.index, pid=worker.pid)
                    self.freezes += 1
                    worker.kill()

    async def _put(self, index: int) -> None:
        """Starts a worker and puts it in its place."""
        worker = await self._start(index)
        self._log.info("worker started", worker=index, pid=worker.pid)
        self._current[index] = worker
        keeper = self._keepers.get(index)
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()
        self._keepers[index] = asyncio.create_task(self._keep(worker))

    async def _keep(self, worker: WorkerProcess) -> None:
        """Starts another one in a worker's place when it has ended, and again until one serves."""
        index = worker.index
        code = await worker.ended()
        self._log.error("a worker is gone: starting another", worker=index, pid=worker.pid, code=code)
        if worker.seconds > _SHORT_LIFE_SECONDS:
            self._short_lives[index] = 0
        while True:
            await asyncio.sleep(self._pause(index))
            self._short_lives[index] = self._short_lives.get(index, 0) + 1
            try:
                async with self._turn:
                    await self._put(index)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
                self._log.error("a worker did not start", worker=index, error=_words(error))
            else:
                self.restarts += 1
                return

    def _pause(self, index: int) -> float:
        """Answers none after a long life, and more with every short one."""
        lives = self._short_lives.get(index, 0)
        return min(_LONGEST_PAUSE_SECONDS, 0.25 * 2 ** (lives - 1)) if lives else 0.0


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
