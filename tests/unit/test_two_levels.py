"""The two levels of memory under many random schedules: each answer is that of one state, and of none that is too old.

The model in `tests/model` has the rules; here is the code that follows them. Reads take any time, changes of any parts
come at any moment and are applied at any later one, the lease ends and comes back, and memory is full.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.app.authorization.first_sights import FirstSights
from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.key_loader import KeyLoader
from skilder_keys.app.authorization.snapshot import SharedToolSet, Snapshot
from skilder_keys.app.authorization.snapshots import Snapshots
from skilder_keys.app.fence.lease import Lease
from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.domain.denial import Denied
from skilder_keys.domain.difference import Part
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId
from skilder_keys.domain.keys import Credential, Key, Revocation
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.revision import Revision
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Skill, Team, Tool
from skilder_keys.storage import credentials, key_uses, snapshots
from skilder_keys.storage.fence import Change, Touch
from tests.support.lengths import LONG
from tests.support.memory import ACME, TestedMemory, minted, touched_key, touched_keys, touched_part
from tests.support.snapshot_reads import read_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.token import Token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOOL = ToolId("tool")
SEEDS = 1000 if LONG else 100
CALLS = 40


@dataclass(frozen=True)
class World:
    """What decides about one tool of one user key."""

    revoked: bool = False
    deleted: bool = False
    team: str | None = "red"  # of the user; None: no member
    hat_team: str = "red"
    above: str | None = None  # the team above `blue`
    skill_has_tool: bool = True
    enabled: bool = True
    version: int = 1

    def decision(self) -> str:
        """Return what Authorize has to say, by the rule as it is written."""
        if self.revoked:
            return "REVOKED"
        if self.deleted:
            return "WORKSPACE_GONE"
        if self.team is None:
            return "MEMBER_REMOVED"
        reached = self.team == self.hat_team or (self.team == "blue" and self.above == self.hat_team)
        return "granted" if reached and self.skill_has_tool and self.enabled else "no tool"

    def catalog(self) -> Catalog:
        """Return the workspace's catalog."""
        tool_ids = (TOOL,) if self.skill_has_tool else ()
        red, blue = TeamId("red"), TeamId("blue")
        return Catalog(
            (Team(red, "", None), Team(blue, "", red if self.above else None)),
            (Hat(HatId("hat"), "", "", "", HatAudience.TEAMS, (TeamId(self.hat_team),), (SkillId("skill"),)),),
            (Skill(SkillId("skill"), "", "", tool_ids),),
            (Tool(TOOL, "", "", disabled=not self.enabled),),
        )


def other_team(team: str | None) -> str:
    """Return a team that is not this one."""
    return "blue" if team == "red" else "red"


CHANGES: dict[str, tuple[Callable[[World], World], Touch]] = {
    "member leaves or comes": (
        lambda world: replace(world, team=None if world.team else "red"),
        touched_part(Part.MEMBER, "ann"),
    ),
    "member moves": (lambda world: replace(world, team=other_team(world.team)), touched_part(Part.MEMBER, "ann")),
    "all members": (lambda world: replace(world, team=other_team(world.team)), touched_part(Part.MEMBER)),
    "hat moves": (lambda world: replace(world, hat_team=other_team(world.hat_team)), touched_part(Part.HAT, "hat")),
    "all hats": (lambda world: replace(world, hat_team=other_team(world.hat_team)), touched_part(Part.HAT)),
    "teams": (lambda world: replace(world, above=None if world.above else "red"), touched_part(Part.TEAM, "blue")),
    "skill": (
        lambda world: replace(world, skill_has_tool=not world.skill_has_tool),
        touched_part(Part.SKILL, "skill"),
    ),
    "tool": (lambda world: replace(world, enabled=not world.enabled), touched_part(Part.TOOL, "tool")),
    "workspace": (lambda world: replace(world, deleted=not world.deleted), touched_part(Part.WORKSPACE)),
    "another member": (lambda world: world, touched_part(Part.MEMBER, "bob")),
}


class Elsewhere:
    """Runs long work at some later moment, which depends on nothing but the seed."""

    def __init__(self, pause: Callable[[], Awaitable[None]]) -> None:
        self._pause = pause

    async def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run a function and return its result."""
        await self._pause()
        return function(*arguments)


class Schedule:
    """A process, a database, and what happens to them, by a seed."""

    def __init__(self, seed: int, token: Token) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.token = token
        self.history = [World()]  # by epoch
        self.changes: list[tuple[Touch, ...]] = [()]
        self.used = self.random.random() < 0.5
        self.memory = TestedMemory(capacity=self.random.choice([1, 2**20]))
        self.memory.lease.server = "server"
        self.memory.lease.wake = self.wake
        self.woken = False
        reads = FencedReads(self, self.memory.lease)  # type: ignore[arg-type]
        reads.on_doubt = self.memory.memory.drop_all
        self.memory.snapshots._reads = reads  # noqa: SLF001 - the two need each other
        self.memory.snapshots._offload = Elsewhere(self.pause)  # type: ignore[assignment]  # noqa: SLF001
        self.loader = KeyLoader(
            self,  # type: ignore[arg-type]
            reads,
            self.memory.lease,
            self.memory.keys,
            self.memory.snapshots,
            self.memory.fingerprint,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            FirstSights(self.memory.clock, 1000),
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Schedule]:
        """Lend a connection."""
        await self.pause()
        yield self

    async def expire(self) -> None:
        """Replace the connections."""

    async def verifies(self, *_: object) -> bool:
        """Verify a token, which takes time."""
        await self.pause()
        return True

    def written(self, _: KeyId) -> None:
        """Note that a use was written."""

    def wake(self) -> None:
        """Note that the reader has to look."""
        self.woken = True

    async def pause(self) -> None:
        """Let others run for a while."""
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    @property
    def epoch(self) -> int:
        """The epoch of the database."""
        return len(self.history) - 1

    def commit(self) -> None:
        """Commit a transaction that changes one to three things."""
        world, touches = self.history[-1], []
        names = self.random.sample([*CHANGES, "keys"], self.random.choice([0, 1, 2]))
        if not names or self.random.random() < 0.3:
            names.append("key")
        for name in names:
            if name in CHANGES:
                change, touch = CHANGES[name]
                world = change(world)
            else:
                world = replace(world, revoked=not world.revoked)
                touch = touched_key(self.token.key_id) if name == "key" else touched_keys(ACME)
            touches.append(touch)
        self.history.append(replace(world, version=world.version + 1))
        self.changes.append(tuple(touches))

    def apply(self, upto: int) -> None:
        """Apply the changes up to an epoch, each one whole."""
        lease = self.memory.lease
        for epoch in range(lease.epoch + 1, upto + 1):
            self.memory.memory.apply(Change(Revision(epoch, epoch), epoch - 1, self.changes[epoch]))
            lease.advance(Revision(epoch, epoch))

    async def find_credentials(self, _connection: object, key_ids: list[KeyId]) -> credentials.Credentials:
        """Read the key, as it is now; the answer takes time."""
        epoch, world = self.epoch, self.history[-1]
        by = Principal(PrincipalKind.CALLER, "x")
        key = Key(
            id=self.token.key_id,
            type=KeyType.USER,
            workspace_id=ACME,
            user_id=UserId("ann"),
            runtime_id=None,
            description="",
            hat_ids=None,
            created_at=NOW,
            created_by=by,
            last_used_at=NOW if self.used else None,
            revocation=Revocation(NOW, by, "") if world.revoked else None,
            workspace_deleted=world.deleted,
            user_is_member=world.team is not None,
        )
        await self.pause()
        found = {key.id: Credential(key, "hash", world.version)} if key.id in key_ids else {}
        return credentials.Credentials(Revision(epoch, epoch), "server", found)

    async def read(self, _connection: object, _workspace_id: object, wanted: snapshots.Wanted) -> Any:
        """Read parts of the workspace, as they are now; the answer takes time."""
        epoch, world = self.epoch, self.history[-1]
        wanted = {part: None if ids is None else set(ids) for part, ids in wanted.items()}
        members = {"bob": ("red",)} | ({} if world.team is None else {"ann": (world.team,)})
        found = read_of(world.catalog(), members, wanted=wanted, epoch=epoch, version=world.version)
        await self.pause()
        return replace(found, deleted=world.deleted)

    async def claim_first_uses(self, _connection: object, hashes: list[tuple[KeyId, str]]) -> dict[Any, bool]:
        """Record the first use, unless the key is revoked."""
        await self.pause()
        if self.history[-1].revoked:
            return {}
        self.used = True
        await self.pause()
        return dict.fromkeys(hashes, True)

    async def call(self) -> None:
        """Authorize; the answer must be that of one state since everything that had been applied when it began."""
        await self.pause()
        # Without a lease a change may have returned without this process, so then everything that is committed counts.
        lease = self.memory.lease
        begin = lease.epoch if lease.valid() else self.epoch
        text = self.token.reveal()
        try:
            access = self.memory.memory.find(text) or await self.loader.load(text, None)
        except UnavailableError:
            return
        if isinstance(access, Denied):
            got = access.reason.name
        elif isinstance(access[1], SharedToolSet):
            got = "granted" if access[1].grant(TOOL) is not None else "no tool"
        else:
            got = access[1].name
        allowed = {world.decision() for world in self.history[begin:]}
        assert got in allowed, (begin, got, allowed, self.history)

    async def run(self) -> None:
        """Let it all happen."""
        calls: list[asyncio.Task[None]] = []
        while len(calls) < CALLS:
            await asyncio.sleep(0)
            if self.random.random() < 0.35:
                calls.append(asyncio.create_task(self.call()))
            else:
                self.step()
        while not all(each.done() for each in calls):
            self.catch_up()
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        self.catch_up()
        for _ in range(2):
            await self.call()

    def step(self) -> None:
        """Let one thing happen."""
        lease, memory = self.memory.lease, self.memory
        choice = self.random.random()
        if choice < 0.25:
            self.commit()
        elif choice < 0.6 or (self.woken and choice < 0.8):
            self.woken = False
            self.apply(self.random.randint(lease.epoch, self.epoch))
        elif choice < 0.65:
            memory.lapse()
        elif choice < 0.75 and not lease.valid():
            self.catch_up()
        elif choice < 0.8:
            self.evict()
        elif choice < 0.83:
            memory.memory.drop_all()  # as a reader that lost its row does, which registers at the current epoch
            lease.end()
            lease.advance(Revision(self.epoch, self.epoch))

    def catch_up(self) -> None:
        """Apply all changes, and renew the lease."""
        self.apply(self.epoch)
        self.memory.renew()

    def evict(self) -> None:
        """Make room in memory."""
        known = self.memory.keys.get(self.token.key_id)
        snapshot = self.memory.snapshots.current(ACME)
        if known is not None and self.random.random() < 0.5:
            self.memory.keys.forget(known)
        elif snapshot is not None:
            self.memory.snapshots._replace(snapshot, None)


async def history(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything happen, as the seed says."""
    schedule = Schedule(seed, minted(KeyType.USER))
    monkeypatch.setattr(credentials, "find_credentials", schedule.find_credentials)
    monkeypatch.setattr(snapshots, "read", schedule.read)
    monkeypatch.setattr(key_uses, "claim_first_uses", schedule.claim_first_uses)
    async with asyncio.timeout(60):
        await schedule.run()


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
async def test_each_answer_is_that_of_one_state_that_is_not_too_old(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a lease or without, from memory or loaded, whatever overtakes it."""
    for seed in range(first, first + 10):
        await history(seed, monkeypatch)


async def at_once(_lease: Lease, _epoch: int) -> bool:
    """Do not wait until memory has applied an epoch."""
    return True


@pytest.mark.parametrize(
    ("of", "name", "mistake"),
    [
        (KeyLoader, "_holds", lambda *_: True),
        (KeyCache, "_overtaken", lambda *_: []),
        (Snapshots, "_overtaken", lambda *_: []),
        (KeyCache, "apply", lambda *_: None),
        (Snapshots, "apply", lambda *_: None),
        (Snapshot, "lacks", lambda *_: False),
        (Lease, "reach", at_once),
    ],
)
async def test_each_mistake_is_found(of: type, name: str, mistake: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some schedule shows it, so that the schedules above prove something."""
    monkeypatch.setattr(of, name, mistake)

    async def search() -> None:
        for seed in range(1000):
            await history(seed, monkeypatch)

    with pytest.raises((AssertionError, LookupError)):
        await search()


async def test_a_member_that_is_read_again_leaves_the_tool_sets_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the workspace is made again; all members at once make a new snapshot, with the same contents."""
    schedule = Schedule(1, minted(KeyType.USER))
    monkeypatch.setattr(snapshots, "read", schedule.read)
    store = schedule.memory.snapshots
    before = await store.load(ACME, whole=False)
    for touch, same in ((touched_part(Part.MEMBER, "ann"), True), (touched_part(Part.MEMBER), False)):
        schedule.history.append(replace(schedule.history[-1], version=schedule.history[-1].version + 1))
        schedule.changes.append((touch,))
        schedule.apply(schedule.epoch)
        after = await store.load(ACME, whole=False)
        assert (after is before, after.contents is before.contents) == (same, True)
        assert (after.missing, after.complete, after.version) == ({}, True, schedule.history[-1].version)
        assert after.members == {"ann": {"red"}, "bob": {"red"}}
        assert store.current(ACME) is after


async def test_a_member_who_leaves_when_a_hat_moves_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one transaction or in two: the new snapshot does not have the member as it was."""
    schedule = Schedule(1, minted(KeyType.USER))
    monkeypatch.setattr(snapshots, "read", schedule.read)
    store = schedule.memory.snapshots
    member, hat = touched_part(Part.MEMBER, "ann"), touched_part(Part.HAT, "hat")
    for touches in ([(member, hat)], [(member,), (hat,)], [(hat,), (member,)]):
        schedule.history.append(World(version=schedule.history[-1].version + 1))
        schedule.changes.append((touched_part(Part.WORKSPACE),))
        schedule.apply(schedule.epoch)
        assert "ann" in (await store.load(ACME, whole=False)).members
        for each in touches:
            gone = World(team=None, hat_team="blue", version=schedule.history[-1].version + 1)
            schedule.history.append(gone)
            schedule.changes.append(each)
            schedule.apply(schedule.epoch)
        after = await store.load(ACME, whole=False)
        assert not after.missing
        assert set(after.members) == {"bob"}
