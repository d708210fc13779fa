"""A process, a database, and a scheduler: it decides by a seed what happens next, at random or by a story."""

from __future__ import annotations

import asyncio
import random
import selectors
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from skilder_keys.app.authorization.first_sights import FirstSights
from skilder_keys.app.authorization.key_loader import KeyLoader
from skilder_keys.app.authorization.turns import Gates
from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.difference import Part
from skilder_keys.domain.errors import UnavailableError
from tests.support.memory import TestedMemory, touched_keys, touched_part
from tests.support.schedules.database import SERVER, Database
from tests.support.schedules.reader import Reader
from tests.support.schedules.world import CLIENTS, MAX_EPOCH, PARTS, Client, seen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.domain.keys import Key
    from skilder_keys.storage.fence import Touch

    Story = Callable[["Schedule"], Awaitable[None]]

STEPS = 40


class Pause(NamedTuple):
    """Something that waits: what it loads, its priority among all that waits, and what lets it go on."""

    of: str
    priority: float
    turn: asyncio.Future[None]


class Schedule:
    """A process with its memory, and all that happens to it. `answers` is how many calls were answered."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.memory = TestedMemory(capacity=self.random.choice([1, 2**20, 2**20]))
        self.clock = self.memory.clock
        self.database = Database(self.clock, self.pause)
        self.database.used |= {client.key_id for client in CLIENTS if self.random.random() < 0.8}
        self.reader = Reader(self.database, self.memory)
        lease, workspaces = self.memory.lease, self.memory.snapshots
        lease.server = SERVER
        reads = FencedReads(self.database, lease)  # type: ignore[arg-type]
        workspaces._reads, workspaces._offload = reads, self  # type: ignore[assignment]  # noqa: SLF001 - of `memory`
        self.loader = KeyLoader(
            self.database,  # type: ignore[arg-type]
            reads,
            lease,
            self.memory.keys,
            workspaces,
            self.memory.fingerprint,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            Gates(*(FirstSights(self.clock, 1000, at_once=places) for places in (100, 100, 1))),
        )
        for batches in (self.loader._reads._batches, self.loader._first_uses._batches):  # noqa: SLF001
            batches._linger = 0  # noqa: SLF001 - that clock is real
        self.answers = 0
        self._calls: list[tuple[Client, asyncio.Task[None]]] = []
        self._ahead: set[asyncio.Task[None]] = set()
        self._verifying: set[asyncio.Task[None]] = set()
        self._waiting: list[Pause] = []
        self._priorities: dict[object, float] = {}  # by task
        self._is_quiet = False
        self._skipped = self.random.choice([0.0, 0.3, 0.6])  # the part of the pauses that are none
        self._goes_by_priority = self.random.random() < 0.7
        self._focus = self.random.choice(CLIENTS)  # most calls and changes are about it

    # The verifier, the thread and the notes of uses of the process

    def verify(self, _token: object, _digest: object, _hash: object, report: Callable[[bool], None]) -> None:
        """Verify a token, and report it."""

        async def verify() -> None:
            await self.pause()
            report(True)  # noqa: FBT003 - the result

        task = asyncio.create_task(verify())
        self._verifying.add(task)
        task.add_done_callback(self._verifying.discard)

    async def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run a function and return its result."""
        await self.pause()
        return function(*arguments)

    def known(self, key: Key, _: str) -> bytes:
        """Return the digest of the token of a key, as if a worker had verified it before."""
        return self.memory.fingerprint.digest(next(each.text for each in CLIENTS if each.key_id == key.id))

    def read(self, key_id: KeyId, _: float) -> None:
        """Note when a key was used."""
        assert key_id in self.database.used

    def written(self, key_id: KeyId) -> None:
        """Note that a use was written."""
        assert key_id in self.database.used

    # What waits

    async def pause(self) -> None:
        """Wait until the scheduler lets this go on. Each load has a priority, so that some are slow all the way."""
        if self.random.random() < self._skipped:
            return
        task: Any = asyncio.current_task()
        of = "parts" if task.get_coro().__qualname__.startswith("Snapshots.") else "key"
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(Pause(of, self._priorities.setdefault(task, self.random.random()), turn))
        await turn

    def go_on(self) -> None:
        """Let something that waits go on."""
        if self._waiting:
            by_chance = self.random.choice(self._waiting)
            self._release(max(self._waiting, key=lambda each: each.priority) if self._goes_by_priority else by_chance)

    def _release(self, pause: Pause) -> None:
        self._waiting.remove(pause)
        if not pause.turn.done():
            pause.turn.set_result(None)

    async def turns(self, count: int) -> None:
        """Let the event loop run some times."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def jitter(self) -> None:
        """Let the event loop run a few times, or not at all."""
        await self.turns(self.random.randrange(5))

    async def rush(self, of: str = "", steps: int = 100) -> None:
        """Let loads go on, at most some steps: all of them, or those of a key or of parts only."""
        await self.turns(6)
        for _ in range(steps):
            pause = next((each for each in self._waiting if of in ("", each.of)), None)
            if pause is None:
                break
            self._release(pause)
            await self.turns(6)

    def hold(self) -> list[Pause]:
        """Let nothing that waits now go on until `resume`."""
        held, self._waiting = self._waiting, []
        return held

    def resume(self, held: list[Pause]) -> None:
        """Let what was held go on when its turn comes."""
        self._waiting += held

    # What can happen

    def begin(self, client: Client | None = None) -> None:
        """Begin a call."""
        client = client or (self._focus if self.random.random() < 0.7 else self.random.choice(CLIENTS))
        self._calls.append((client, asyncio.create_task(self._call(client))))

    def load_ahead(self, *clients: Client) -> None:
        """Begin to load keys for which nobody asks, by default all."""
        task = asyncio.create_task(self._load_ahead([client.key_id for client in clients or CLIENTS]))
        self._ahead.add(task)
        task.add_done_callback(self._ahead.discard)

    async def _load_ahead(self, key_ids: list[KeyId]) -> None:
        with suppress(UnavailableError):
            await self.loader.load_ahead(key_ids)

    async def _call(self, client: Client) -> None:
        """Authorize. The answer must be that of one state, which is not older than what had returned before.

        And of the time at which the call began, or of that at which it ends, in case the key expires meanwhile.
        """
        lease, began = self.memory.lease, self.clock.now
        begin = max(self.reader.settled, lease.epoch if lease.valid() else 0)
        try:
            access = self.memory.memory.find(client.text) or await self.loader.load(client.text, NO_LIMITS)
        except UnavailableError:
            assert not self._is_quiet, "nothing changes, and still the call is not answered"
            return
        got = seen(access)
        self.answers += 1
        worlds = self.database.worlds[begin:]
        times = (began, self.clock.now)
        if not any(got == world.answer(client, now) for world in reversed(worlds) for now in times):
            right = [world.answer(client, now) for world in worlds for now in times]
            raise AssertionError(f"{got} is the answer at none of the epochs {begin} to {self.database.epoch}: {right}")
        assert got[0] != "granted" or client.key_id in self.database.used, "granted, and the use is not recorded"

    def commit(self) -> None:
        """Commit a transaction that touches one to four things, mostly such that the calls depend on."""
        if self.database.epoch < MAX_EPOCH:
            here = self._focus.workspace_id
            touches = {self._touch(here) for _ in range(self.random.choice([1, 1, 2, 3]))}
            if self.random.random() < 0.3:
                touches.add(self._focus.touch)
            if self.random.random() < 0.1:
                touches.add(self._touch(next(each for each in PARTS if each != here)))
            self.database.change(*sorted(touches, key=repr))

    def _touch(self, workspace_id: WorkspaceId) -> Touch:
        choice = self.random.random()
        if choice < 0.05:
            return touched_part(Part.WORKSPACE, None, workspace_id)
        if choice < 0.15:
            return touched_keys(workspace_id)
        if choice < 0.25:
            return touched_part(self.random.choice([Part.MEMBER, Part.HAT, Part.SKILL, Part.TOOL]), None, workspace_id)
        if choice < 0.35:
            return self.random.choice([client.touch for client in CLIENTS if client.workspace_id == workspace_id])
        if choice < 0.5 and self._focus.user_id is not None:
            return touched_part(Part.MEMBER, self._focus.user_id, workspace_id)
        return self.random.choice(PARTS[workspace_id])

    def evict_key(self, client: Client | None = None) -> None:
        """Drop a key from memory, if it is there."""
        known = self.memory.get((client or self._focus).key_id)
        if known is not None:
            self.memory.keys.forget(known)

    def evict_workspace(self, client: Client | None = None) -> None:
        """Drop the workspace of a key from memory, if it is there, as if others needed the room."""
        snapshot = self.memory.snapshots.current((client or self._focus).workspace_id)
        if snapshot is not None:
            self.memory.snapshots._replace(snapshot, None)  # what `_trim` calls

    # The whole

    async def play(self, story: Story | None) -> None:
        """Let it all happen, by a story or at random. In the end nothing changes any more, and all calls are answered.

        Those that had called call once more, so that they see what is in memory now.
        """
        if story is None:
            await self._wander()
        else:
            self._skipped, self._goes_by_priority = 0.0, False
            await story(self)
        await self._finish()
        self._is_quiet = True
        for client in dict.fromkeys(client for client, _ in self._calls):
            self.begin(client)
            await self._finish()
        assert not self.memory.lease.doubted, "a read was refused, and none has seen an older state"

    async def _wander(self) -> None:
        for _ in range(self.random.choice((0, 1, 1, 3))):
            self.begin()
            await self.rush()
        reader = self.reader
        steps: dict[tuple[Callable[[], None], ...], float] = {
            (self.go_on,): 8,
            (self.go_on,) * 4: 2,
            (self.begin,): 6,
            (self.commit, reader.apply): 3,
            (self.commit,): 2,
            (self.commit, reader.read_ahead, self.go_on, self.go_on, reader.apply): 0.7,
            (reader.read_ahead,): 0.2,
            (reader.apply,): 1.5,
            (reader.heartbeat,): 1,
            (reader.tick,): 0.4,
            (reader.lapse, self.begin, self.go_on, self.go_on, reader.heartbeat): 0.4,
            (self.commit, reader.lapse, reader.lose_row, self.begin, reader.register, reader.renew): 0.3,
            (reader.tick, reader.send, self.commit, self.go_on, reader.tick, self.go_on, reader.get_answer): 0.3,
            (self.commit, reader.register, reader.renew): 0.3,
            (self.evict_key,): 0.5,
            (self.evict_key, self.load_ahead): 0.5,
            (self.evict_workspace,): 0.5,
        }
        count = 0
        while count < STEPS:
            for step in self.random.choices([*steps], [*steps.values()])[0]:
                step()
                await self.turns(self.random.choice((0, 0, 1, 2, 8)))
                count += 1

    async def _finish(self) -> None:
        self._skipped = 1.0
        for _ in range(1000):
            if all(task.done() for _, task in self._calls):
                break
            self.reader.renew()
            while self._waiting:
                self._release(self._waiting[0])
            await asyncio.sleep(0)
        assert all(task.done() for _, task in self._calls), "a call does not end"
        for error in await asyncio.gather(*(task for _, task in self._calls), return_exceptions=True):
            if error is not None:
                raise error


class _NoFiles(selectors.SelectSelector):
    """Waits for nothing: no schedule reads or writes a file."""

    def select(self, timeout: float | None = None) -> list[Any]:  # noqa: ARG002 - as the base says
        return []


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose timers go by the clock of a schedule; besides, a moment passes with each turn."""

    def __init__(self) -> None:
        super().__init__(_NoFiles())
        self.clock: Callable[[], float] = float
        self._moments = 0.0

    def time(self) -> float:
        self._moments += 0.0001
        return self.clock() + self._moments


def play(seeds: Iterable[tuple[int, Story | None]]) -> Iterator[int]:
    """Let happen what each seed says, by its story or at random, and yield how many calls were answered."""
    loop = _Loop()
    try:
        for seed, story in seeds:
            schedule = Schedule(seed)
            loop.clock = schedule.clock
            loop.run_until_complete(schedule.play(story))
            yield schedule.answers
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
