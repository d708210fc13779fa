"""Start the workers of a server, replace those that end or freeze, reload them one by one, and end them together."""

from __future__ import annotations

import asyncio
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from skilder_keys.supervisor.metrics import merge
from skilder_keys.supervisor.opening import Opening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.supervisor.worker_process import WorkerProcess

_EARLY_EXIT_SECONDS = 10.0
_MAX_BACKOFF_SECONDS = 5.0
_PING_SECONDS = 1.0
# On a busy machine a worker may respond late.
_PINGS_TO_BE_READY = 3


class WorkerPool:
    """The workers of a server, one for each index from 0.

    Attributes:
        restarts: How many workers were started because another had ended unexpectedly or was frozen.
        freezes: How many workers were killed because they did not respond to pings.
    """

    def __init__(
        self,
        start: Callable[[int, Callable[[], Awaitable[None]]], Awaitable[WorkerProcess]],
        log: FilteringBoundLogger,
        *,
        end_seconds: float,
        handover_seconds: float,
        frozen_seconds: float,
    ) -> None:
        """Create a pool without workers.

        Args:
            start: Starts the worker with an index, and returns when it serves. The worker listens when the function
                that is passed has returned.
            log: The log.
            end_seconds: The most seconds that a worker may take to end.
            handover_seconds: The most seconds that a worker may take to hand over.
            frozen_seconds: The most seconds that a worker may take to respond to a ping; 0 for no limit.
        """
        self.restarts = 0
        self.freezes = 0
        self._start = start
        self._log = log
        self._end_seconds = end_seconds
        self._handover_seconds = handover_seconds
        # Count the pings that this process has sent, instead of reading a clock: while the machine sleeps, or while
        # this process is stopped or late, the workers must not run out of time.
        self._frozen_pings = math.ceil(frozen_seconds / _PING_SECONDS)
        self._pinging: asyncio.Task[NoReturn] | None = None
        self._current: dict[int, WorkerProcess] = {}
        self._handing_over: WorkerProcess | None = None
        self._monitors: dict[int, asyncio.Task[None]] = {}
        self._early_exits: dict[int, int] = {}
        self._opening = Opening()
        # While a reload starts a worker no other is started, so that the new one is the last that began to listen.
        self._reloading = asyncio.Lock()
        self._restarting = 0
        self._none_restarts = asyncio.Event()
        self._none_restarts.set()

    async def start(self, count: int) -> None:
        """Start this many workers, and return when all serve. Raises as `WorkerProcess.start` does."""
        self._pinging = asyncio.create_task(self._ping())
        # The first one prepares alone, so that an error is reported once, and files of a first start are created once.
        first_is_prepared = asyncio.Event()

        async def first_prepared() -> None:
            first_is_prepared.set()
            await prepared[0]()

        with ExitStack() as stack:
            prepared = [stack.enter_context(self._opening.starting()) for _ in range(count)]
            tasks = [asyncio.create_task(self._add(0, first_prepared))]
            try:
                preparing = asyncio.create_task(first_is_prepared.wait())
                await asyncio.wait([*tasks, preparing], return_when=asyncio.FIRST_COMPLETED)
                preparing.cancel()
                if first_is_prepared.is_set():
                    tasks += [asyncio.create_task(self._add(index, prepared[index])) for index in range(1, count)]
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def reload(self) -> None:
        """Replace the workers by new ones, one after another. If a new worker does not start, keep the old ones."""
        for index in sorted(self._current):
            async with self._reloading:
                await self._none_restarts.wait()
                listening = sum(worker.runs for worker in self._current.values())
                old = self._current[index]
                try:
                    await self._add_alone(index)
                except Exception as error:  # noqa: BLE001 - after any error the old workers continue to serve
                    self._log.error("reload failed: the old workers stay", worker=index, error=_described(error))
                    return
                self._handing_over = old
                old.hand_over(successor=listening)
            if not await old.end_within(self._handover_seconds + self._end_seconds):
                self._report_killed(old)
            self._handing_over = None
            self._log.info("worker replaced", worker=index, pid=old.pid)
        self._log.info("reloaded")

    async def end(self) -> None:
        """End all workers at the same time. Each may finish its calls, within its time limit."""
        for monitor in self._monitors.values():
            monitor.cancel()
        await asyncio.gather(*self._monitors.values(), return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in self._all()))
        if self._pinging is not None:
            self._pinging.cancel()

    async def _end(self, worker: WorkerProcess) -> None:
        if not await worker.end(self._end_seconds):
            self._report_killed(worker)
        self._log.info("worker ended", worker=worker.index, pid=worker.pid, code=await worker.ended())

    def _report_killed(self, worker: WorkerProcess) -> None:
        """Log that a worker did not end in time: its calls failed, and what it had counted last is lost."""
        self._log.error("a worker did not end in time: it was killed", worker=worker.index, pid=worker.pid)

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._all():
            worker.kill()

    def why_not_ready(self) -> str | None:
        """Return None if at least one worker serves and reaches the database, else the reason why none does."""
        responsive = [each for each in self._current.values() if each.runs and each.unanswered < _PINGS_TO_BE_READY]
        if not responsive:
            return "no worker serves"
        return None if any(each.serving for each in responsive) else "no worker reaches the database"

    async def metrics(self) -> list[Metric]:
        """Return the merged metrics of all workers, and the metrics about the workers themselves."""
        # Workers may be replaced or added while these are asked.
        indexes = sorted(self._current)
        asked = {str(index): self._current[index] for index in indexes}
        if self._handing_over is not None:
            # Its counters run until it ends, so it needs a label of its own: its successor counts from zero.
            asked[f"{self._handing_over.index}-handover"] = self._handing_over
        found = dict(zip(asked, await asyncio.gather(*(each.metrics() for each in asked.values())), strict=True))
        up = GaugeMetricFamily(
            "skilder_keys_worker_up", "1 if the worker responds to its parent, else 0.", labels=["worker"]
        )
        for index in indexes:
            up.add_metric([str(index)], found[str(index)] is not None)
        restarts = CounterMetricFamily(
            "skilder_keys_worker_restarts",
            "Workers started because another had ended unexpectedly or was frozen.",
            self.restarts,
        )
        freezes = CounterMetricFamily(
            "skilder_keys_worker_freezes",
            "Workers killed because they did not respond to their parent.",
            self.freezes,
        )
        return [up, restarts, freezes, *merge({worker: each for worker, each in found.items() if each is not None})]

    def _all(self) -> list[WorkerProcess]:
        return [*([self._handing_over] if self._handing_over is not None else []), *self._current.values()]

    async def _ping(self) -> NoReturn:
        """Ping the workers regularly, and kill those that do not respond. Their monitors then replace them."""
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

    async def _add(self, index: int, prepared: Callable[[], Awaitable[None]]) -> None:
        """Start a worker, make it the current one of its index, and monitor it.

        Args:
            index: Its index.
            prepared: Awaited when it could listen; it listens afterwards.
        """
        worker = await self._start(index, prepared)
        self._log.info("worker started", worker=index, pid=worker.pid)
        self._current[index] = worker
        monitor = self._monitors.get(index)
        if monitor is not None and monitor is not asyncio.current_task():
            monitor.cancel()
        self._monitors[index] = asyncio.create_task(self._monitor(worker))

    async def _monitor(self, worker: WorkerProcess) -> None:
        """Wait until a worker ends, and then start another one; repeat this until one serves."""
        index = worker.index
        code = await worker.ended()
        self._log.error("a worker is gone: starting another", worker=index, pid=worker.pid, code=code)
        if worker.seconds > _EARLY_EXIT_SECONDS:
            self._early_exits[index] = 0
        while True:
            await asyncio.sleep(self._backoff(index))
            self._early_exits[index] = self._early_exits.get(index, 0) + 1
            try:
                await self._restart(index)
            except Exception as error:  # noqa: BLE001 - any error is logged, and the next attempt follows
                self._log.error("a worker did not start", worker=index, error=_described(error))
            else:
                self.restarts += 1
                return

    async def _restart(self, index: int) -> None:
        """Start a worker beside others that start, but not while a reload starts one."""
        async with self._reloading:
            self._restarting += 1
            self._none_restarts.clear()
        try:
            await self._add_alone(index)
        finally:
            self._restarting -= 1
            if not self._restarting:
                self._none_restarts.set()

    async def _add_alone(self, index: int) -> None:
        """Add a worker, which listens together with those that others start at this time."""
        with self._opening.starting() as prepared:
            await self._add(index, prepared)

    def _backoff(self, index: int) -> float:
        """Return the seconds before the next start: 0 after a long run, and twice as many after each early exit."""
        exits = self._early_exits.get(index, 0)
        return min(_MAX_BACKOFF_SECONDS, 0.25 * 2 ** (exits - 1)) if exits else 0.0


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
