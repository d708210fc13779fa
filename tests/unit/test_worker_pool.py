"""The pool of workers, tested with pretended worker processes."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from skilder_keys.supervisor import worker_pool as module
from skilder_keys.supervisor.worker_pool import WorkerPool
from skilder_keys.supervisor.worker_process import StartError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Pretended:
    """A worker process as far as `WorkerPool` sees it."""

    def __init__(self, index: int, pid: int) -> None:
        self.index = index
        self.pid = pid
        self.seconds = 0.0
        self.received: list[object] = []
        self.serving = True
        self.unanswered = 0
        self.responds = True
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def runs(self) -> bool:
        """As WorkerProcess has it."""
        return not self._end.done()

    def crash(self, code: int = -9) -> None:
        """End without being asked to."""
        if self.runs:
            self._end.set_result(code)

    async def ended(self) -> int:
        """As WorkerProcess has it."""
        return await asyncio.shield(self._end)

    def ping(self) -> None:
        """Respond or not, as the test says."""
        self.unanswered = 0 if self.responds else self.unanswered + 1

    def hand_over(self, successor: int) -> None:
        """Start to leave."""
        self.received.append(("leave", successor))
        self.crash(0)

    async def end_within(self, patience: float) -> bool:
        """Wait for the end, which comes in time unless the worker has to be killed."""
        self.received.append(patience)
        return await self.ended() != -signal.SIGKILL

    async def end(self, patience: float) -> bool:
        """End at once."""
        self.crash(0)
        return await self.end_within(patience)

    kill = crash

    async def metrics(self) -> list[Any] | None:
        """Return None, as for a worker that does not respond."""
        return None


class World:
    """Starts pretended workers, or fails where the test says so."""

    def __init__(self, frozen_seconds: float = 0) -> None:
        self.started: list[Pretended] = []
        self.fail: Callable[[int], bool] = lambda _: False
        self.errors: list[tuple[str, int]] = []

        def note(_: object, name: str, event: Any) -> Any:
            if name == "error":
                self.errors.append((event["event"], event["worker"]))
            return event

        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[note])
        self.workers = WorkerPool(
            self.start,  # type: ignore[arg-type]
            log,
            end_seconds=1,
            handover_seconds=2,
            frozen_seconds=frozen_seconds,
        )

    async def start(self, index: int, prepared: Callable[[], Awaitable[None]]) -> Pretended:
        """Replace WorkerProcess.start."""
        await asyncio.sleep(0)
        if self.fail(index):
            raise StartError("no")
        worker = Pretended(index, 100 + len(self.started))
        self.started.append(worker)
        try:
            await prepared()
        except asyncio.CancelledError:
            worker.crash()
            raise
        return worker

    async def until_started(self, count: int) -> None:
        """Wait until this many workers were started."""
        async with asyncio.timeout(60):
            while len(self.started) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """No workers yet; pauses are short."""
    monkeypatch.setattr(module, "_MAX_BACKOFF_SECONDS", 0.01)
    return World()


async def test_the_first_worker_starts_alone(world: World) -> None:
    """If it fails, no other is started, and its error is raised unchanged."""
    world.fail = lambda _: True
    with pytest.raises(StartError):
        await world.workers.start(3)
    assert world.started == []
    world.fail = lambda index: index == 2
    with pytest.raises(StartError):
        await world.workers.start(3)
    await world.workers.end()
    assert not any(each.runs for each in world.started)


async def test_the_workers_of_a_new_server_listen_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is prepared before the others start, and listens after all are prepared."""
    events: list[tuple[str, int]] = []
    start = world.start

    async def noted(index: int, prepared: Callable[[], Awaitable[None]]) -> Pretended:
        async def noting() -> None:
            events.append(("prepared", index))
            await prepared()
            events.append(("listens", index))

        events.append(("starts", index))
        return await start(index, noting)

    monkeypatch.setattr(world.workers, "_start", noted)
    await world.workers.start(3)
    assert events[:4] == [("starts", 0), ("prepared", 0), ("starts", 1), ("starts", 2)]
    assert set(events[4:6]) == {("prepared", 1), ("prepared", 2)}
    assert {name for name, _ in events[6:]} == {"listens"}
    await world.workers.end()


async def test_a_worker_that_ended_is_replaced(world: World) -> None:
    """Even if its successors fail to start for a while; it is counted once each time."""
    await world.workers.start(2)
    world.started[0].crash()
    await world.until_started(3)
    failures = iter([True, True, False])
    world.fail = lambda _: next(failures)
    world.started[2].crash()
    await world.until_started(4)
    assert [each.index for each in world.started] == [0, 1, 0, 0]
    assert world.workers.restarts == 2
    await world.workers.end()
    assert not any(each.runs for each in world.started)


async def test_workers_that_ended_together_listen_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that could listen waits for the other. A reload waits for both, since its worker must listen last."""
    await world.workers.start(2)
    events: list[object] = []
    slow = asyncio.Event()
    start = world.start

    async def noted(index: int, prepared: Callable[[], Awaitable[None]]) -> Pretended:
        async def noting() -> None:
            await prepared()
            events.append(("listens", index))

        events.append(("starts", index))
        if index == 1:
            await slow.wait()
        return await start(index, noting)

    monkeypatch.setattr(world.workers, "_start", noted)
    for each in world.started[:2]:
        each.crash()
    async with asyncio.timeout(60):
        while len(events) < 2:
            await asyncio.sleep(0.01)
    reloading = asyncio.create_task(world.workers.reload())
    await asyncio.sleep(0.05)
    assert events == [("starts", 0), ("starts", 1)]
    slow.set()
    await reloading
    assert set(events[2:4]) == {("listens", 0), ("listens", 1)}
    assert events[4:] == [("starts", 0), ("listens", 0), ("starts", 1), ("listens", 1)]
    assert world.started[2].received == world.started[3].received == [("leave", 2), 3]
    await world.workers.end()


async def test_the_pause_before_a_restart_grows_until_a_worker_lives_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, then 0.25, 0.5, 1, 2, 4 and 5 seconds; none again after a long life."""
    pauses: list[float] = []
    world = World()
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if asyncio.current_task() is not test:
            pauses.append(seconds)
        await sleep(0)

    test = asyncio.current_task()
    monkeypatch.setattr(module, "_PING_SECONDS", 3600)
    await world.workers.start(1)
    monkeypatch.setattr(asyncio, "sleep", noted)
    for number in range(1, 9):
        if number == 8:
            world.started[-1].seconds = 11
        world.started[-1].crash()
        await world.until_started(number + 1)
    assert [each for each in pauses if each or len(pauses) == 1] == [0.25, 0.5, 1, 2, 4, 5]
    await world.workers.end()


async def test_a_reload_replaces_one_worker_after_another(world: World) -> None:
    """Each old worker learns which listening socket is its successor's: the last one."""
    await world.workers.start(2)
    await world.workers.reload()
    assert [(each.index, each.runs) for each in world.started] == [(0, False), (1, False), (0, True), (1, True)]
    assert world.started[0].received == [("leave", 2), 3]
    assert world.workers.restarts == 0
    await world.workers.end()


@pytest.mark.parametrize(("code", "is_reported"), [(0, False), (-9, True)])
async def test_a_worker_that_has_to_be_killed_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int, *, is_reported: bool
) -> None:
    """When it is replaced and at the end of all: its calls failed, and its last counts are lost."""
    await world.workers.start(2)
    old, stays = world.started
    monkeypatch.setattr(old, "hand_over", lambda **_: old.crash(code))
    await world.workers.reload()
    new = world.started[2]
    end = new.crash
    monkeypatch.setattr(new, "crash", lambda _: end(code))
    await world.workers.end()
    assert not stays.runs
    text = "a worker did not end in time: it was killed"
    assert world.errors == ([(text, old.index), (text, new.index)] if is_reported else [])


async def test_a_failed_reload_keeps_the_workers_not_yet_replaced(world: World) -> None:
    """And the pool keeps watching them."""
    await world.workers.start(3)
    world.fail = lambda index: index == 1
    await world.workers.reload()
    state = sorted((each.index, each.runs) for each in world.started)
    assert state == [(0, False), (0, True), (1, True), (2, True)]
    world.fail = lambda _: False
    next(each for each in world.started if each.index == 1).crash()
    await world.until_started(5)
    assert world.started[4].index == 1
    await world.workers.end()


async def test_a_new_worker_is_watched_while_the_old_one_drains(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draining may take a minute."""
    monkeypatch.setattr(Pretended, "hand_over", lambda *_, **__: None)
    await world.workers.start(1)
    reloading = asyncio.create_task(world.workers.reload())
    await world.until_started(2)
    world.started[1].crash()
    await world.until_started(3)
    assert world.started[0].runs
    world.started[0].crash(0)
    await reloading
    await world.workers.end()
    assert [each.runs for each in world.started] == [False] * 3


async def test_a_stop_during_a_reload_also_stops_the_draining_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not forgotten and not killed: its calls may end."""
    monkeypatch.setattr(Pretended, "hand_over", lambda *_, **__: None)
    await world.workers.start(1)
    reloading = asyncio.create_task(world.workers.reload())
    await world.until_started(2)
    await asyncio.sleep(0.01)
    reloading.cancel()
    await asyncio.gather(reloading, return_exceptions=True)
    assert world.started[0].runs
    await world.workers.end()
    assert [each.runs for each in world.started] == [False, False]


async def test_a_worker_that_does_not_respond_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many pings as the limit allows. Not if it responds, or if there is no limit."""
    monkeypatch.setattr(module, "_PING_SECONDS", 0.01)
    world = World(frozen_seconds=0.05)
    await world.workers.start(2)
    world.started[0].responds = False
    await world.until_started(3)
    assert world.started[0].unanswered == 5
    assert [(each.index, each.runs) for each in world.started] == [(0, False), (1, True), (0, True)]
    assert (world.workers.freezes, world.workers.restarts) == (1, 1)
    await world.workers.end()

    world = World(frozen_seconds=0)
    await world.workers.start(1)
    world.started[0].responds = False
    async with asyncio.timeout(60):
        while world.started[0].unanswered < 20:
            await asyncio.sleep(0.01)
    assert world.started[0].runs
    await world.workers.end()


async def test_the_reason_for_not_being_ready_is_reported(world: World) -> None:
    """One serving worker is enough; a frozen one does not count."""
    assert world.workers.why_not_ready() == "no worker serves"
    await world.workers.start(2)
    assert world.workers.why_not_ready() is None
    world.started[0].serving = False
    assert world.workers.why_not_ready() is None
    world.started[1].serving = False
    assert world.workers.why_not_ready() == "no worker reaches the database"
    for each in world.started:
        each.serving, each.unanswered = True, 3
    assert world.workers.why_not_ready() == "no worker serves"
    world.started[1].unanswered = 2
    assert world.workers.why_not_ready() is None
    await world.workers.end()
    assert world.workers.why_not_ready() == "no worker serves"


async def test_metrics_are_collected_while_workers_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the workers that existed at the start, even if more are started before the last has responded."""
    answering = asyncio.Event()

    async def metrics(_: Pretended) -> list[Any]:
        await answering.wait()
        return []

    monkeypatch.setattr(Pretended, "metrics", metrics)
    scrapes = []
    start = world.start

    async def start_during_a_scrape(index: int, prepared: Callable[[], Awaitable[None]]) -> Pretended:
        scrapes.append(asyncio.create_task(world.workers.metrics()))
        await asyncio.sleep(0)  # it begins
        return await start(index, prepared)

    monkeypatch.setattr(world.workers, "_start", start_during_a_scrape)
    await world.workers.start(3)
    await world.workers.reload()
    answering.set()
    up = [{each.labels["worker"]: each.value for each in (await scrape)[0].samples} for scrape in scrapes]
    assert up[:3] == [{}, {}, {}]
    assert up[3:] == [{"0": 1, "1": 1, "2": 1}] * 3
    await world.workers.end()
