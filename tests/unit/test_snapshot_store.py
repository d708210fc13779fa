"""The bounded store of workspaces: what counts, what goes first, and what it costs to make room."""

from __future__ import annotations

import gc
from collections import Counter
from typing import TYPE_CHECKING, Any
from weakref import ref

from skilder_keys.app.authorization.snapshot import Snapshot
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import HatId, UserId, WorkspaceId
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience
from skilder_keys.storage import snapshots
from tests.support.memory import ACME, GLOBEX, TestedMemory, minted, touched_part
from tests.support.snapshot_reads import read_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from skilder_keys.storage.snapshots import SnapshotRead, Wanted

_HATS = tuple(Hat(HatId(f"hat-{each}"), "", "", "", HatAudience.WORKSPACE, (), ()) for each in range(40))
_NONE = Catalog((), (), (), ())


class Store(TestedMemory):
    """Memory, and a database that always has what the test has put there.

    Attributes:
        content: What each workspace has: its catalog, and the users who are its members.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
        super().__init__(self, capacity)
        self.content: dict[WorkspaceId, tuple[Catalog, tuple[str, ...]]] = {}
        monkeypatch.setattr(snapshots, "read", self._read)

    async def read(self, query: Callable[[None], Awaitable[SnapshotRead]]) -> SnapshotRead:
        """Read, as `FencedReads` does."""
        return await query(None)

    async def _read(self, _: None, workspace_id: WorkspaceId, wanted: Wanted) -> SnapshotRead:
        catalog, users = self.content[workspace_id]
        members: dict[str, tuple[str, ...]] = dict.fromkeys(
            (each for each in users if wanted.get(Part.MEMBER) is None or each in (wanted[Part.MEMBER] or ())), ()
        )
        return read_of(catalog, members, wanted=wanted, epoch=self.lease.epoch)

    async def fill(self, workspace_id: WorkspaceId, users: int = 0, catalog: Catalog = _NONE) -> Snapshot:
        """Put a workspace with so many members into the database and into memory."""
        self.content[workspace_id] = catalog, tuple(f"user-{each}" for each in range(users))
        return await self.snapshots.load(workspace_id, whole=False)

    def here(self, *workspace_ids: WorkspaceId) -> list[WorkspaceId]:
        """Return which of these workspaces are in memory."""
        return [each for each in workspace_ids if each in self.snapshots._snapshots]  # noqa: SLF001 - without a use


def names(count: int) -> list[WorkspaceId]:
    """Return the names of some workspaces."""
    return [WorkspaceId(f"w{each}") for each in range(count)]


def use(memory: Store, snapshot: Snapshot, hats: int) -> None:
    """Let keys with as many different limits use a workspace, each with a tool set of its own."""
    for hat in _HATS[:hats]:
        known = memory.known(minted())
        known.hat_ids = frozenset((hat.id,))
        assert snapshot.reached(known) is not None


async def test_an_eviction_looks_only_at_what_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as many workspaces that make room for a large one cost four times as much, not sixteen times."""
    looks = []
    for count in (50, 200):
        memory = Store(monkeypatch, count * 1000)
        for name in names(count):
            await memory.fill(name)
        await memory.fill(ACME)
        assert memory.here(*names(count)) == names(count)[1:], "with room for the others"
        seen: Counter[str] = Counter()

        def look(snapshot: Any, name: str, seen: Counter[str] = seen) -> Any:
            seen[name] += 1
            return object.__getattribute__(snapshot, name)

        with monkeypatch.context() as counting:
            counting.setattr(Snapshot, "__getattribute__", look)
            await memory.fill(GLOBEX, users=5 * count)
        assert len(memory.snapshots) == 1
        looks.append(seen.total())
    assert looks[1] < 6 * looks[0], looks


async def test_tool_sets_of_one_workspace_push_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """If they take more than a quarter of the memory, they go first; they are made again when they are needed."""
    memory = Store(monkeypatch, 100_000)
    others = names(20)
    for name in others:
        await memory.fill(name)
    used = await memory.fill(ACME, catalog=Catalog((), _HATS, (), ()))
    largest = 0
    for _ in range(3):
        for hats in range(len(_HATS)):
            use(memory, used, hats)
            largest = max(largest, used.grown)
            assert memory.here(*others, ACME) == [*others, ACME]
            assert memory.snapshots.weight <= 100_000
    assert 25_000 < largest < 52_000, "it was allowed to have more while there was room"


async def test_tool_sets_may_take_the_room_that_nobody_else_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until another workspace needs it."""
    memory = Store(monkeypatch, 120_000)
    used = await memory.fill(ACME, catalog=Catalog((), _HATS, (), ()))
    use(memory, used, len(_HATS))
    grown = used.grown
    assert grown > 30_000
    await memory.fill(GLOBEX, users=300)
    assert (memory.here(ACME, GLOBEX), used.grown) == ([ACME, GLOBEX], 0)


async def test_what_is_read_without_a_lease_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with all else it stays within the bound. Only the last one stays in any case."""
    memory = Store(monkeypatch, 5000)
    await memory.fill(ACME)
    leased = memory.snapshots.weight
    memory.lapse()
    for name in names(3):
        memory.content[name] = _NONE, ("ann",)
        assert await memory.snapshots.at(name, 1, None) is not None
    assert memory.snapshots.weight == leased + 3 * (leased + 200)
    first = await memory.snapshots.at(names(1)[0], 1, None)
    assert first is not None
    memory.content[GLOBEX] = _NONE, ("ann", "bob")
    large = await memory.snapshots.at(GLOBEX, 1, None)
    assert large is not None
    assert memory.here(ACME) == [], "without a lease, what was read with one goes first"
    assert await memory.snapshots.at(names(1)[0], 1, None) is first
    memory.renew()
    await memory.fill(ACME, users=19)
    assert memory.snapshots.weight == leased + 19 * 200
    assert memory.here(ACME) == [ACME], "with a lease, what was read without one goes first"
    memory.snapshots.drop_all()
    assert memory.snapshots.weight == 0


async def test_members_and_holes_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace that was filled bit by bit weighs as much as one that was read as a whole."""
    memory = Store(monkeypatch, 2**20)
    await memory.fill(ACME, users=3)
    memory.content[ACME] = _NONE, tuple(f"user-{each}" for each in range(50))
    memory.change(*(touched_part(Part.MEMBER, f"user-{each}") for each in range(50)))
    with_holes = memory.snapshots.weight
    filled = await memory.snapshots.load(ACME, whole=False)
    assert len(filled.members) == 50
    assert filled.grown == 0
    assert memory.snapshots.weight == filled.weight == with_holes
    memory.content[ACME] = _NONE, ("user-1",)
    memory.change(*(touched_part(Part.MEMBER, f"user-{each}") for each in range(50)))
    filled = await memory.snapshots.load(ACME, whole=False)
    memory.snapshots.drop_all()
    assert (await memory.fill(ACME, users=1)).weight == filled.weight


async def test_what_goes_is_freed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a workspace with tool sets: nothing waits for a search for reference cycles."""
    memory = Store(monkeypatch, 60_000)
    gc.disable()
    try:
        evicted = await memory.fill(ACME, catalog=Catalog((), _HATS, (), ()))
        use(memory, evicted, 5)
        left = ref(evicted)
        del evicted
        await memory.fill(GLOBEX, users=280)
        assert memory.here(ACME, GLOBEX) == [GLOBEX]
        assert left() is None
    finally:
        gc.enable()


async def test_a_catch_up_copies_the_members_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many changes it has, since nobody uses a workspace that lacks a part."""

    class Members(dict[Any, Any]):
        copies = 0

        def copy(self) -> Members:
            Members.copies += 1
            return Members(self)

    memory = Store(monkeypatch, 2**20)
    snapshot = await memory.fill(ACME, users=10)
    snapshot.members = Members(snapshot.members)
    for each in range(30):
        memory.change(touched_part(Part.TOOL, f"tool-{each}"), touched_part(Part.MEMBER, f"user-{each % 3}"))
    assert Members.copies == 1
    assert len(snapshot.members) == 10, "what a call may still hold stays as it is"
    assert snapshot.until == 0
    assert memory.snapshots.current(ACME) is None
    filled = await memory.snapshots.load(ACME, whole=False)
    assert filled.members.keys() == {UserId(f"user-{each}") for each in range(10)}
    assert not filled.missing
    assert filled is memory.snapshots.current(ACME)
