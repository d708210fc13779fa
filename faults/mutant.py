"""A worker with a mistake, which the history check must find: `python -m faults.mutant MUTATION NUMBER`."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.difference import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncpg import Record

    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.memory import Memory
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.domain.revision import Revision
    from skilder_keys.storage.activity_journal import JournalRow
    from skilder_keys.storage.database import Connection


def _keep_overtaken_loads() -> None:
    """Keep what was loaded though a change overtook it."""
    from skilder_keys.app.authorization.key_cache import KeyCache  # noqa: PLC0415 - each mutation imports what it changes
    from skilder_keys.app.authorization.snapshots import Snapshots  # noqa: PLC0415

    def nothing(_self: object, _touched: object) -> list[Any]:
        return []

    KeyCache._overtaken = nothing  # type: ignore[method-assign, assignment]  # noqa: SLF001 - that is the mistake
    Snapshots._overtaken = nothing  # type: ignore[method-assign, assignment]  # noqa: SLF001


def _ignore_the_lease_end() -> None:
    """Decide from memory until a change says otherwise."""
    from skilder_keys.app.fence.lease import Lease  # noqa: PLC0415 - each mutation imports what it changes

    def valid(self: Lease) -> bool:
        return self._end > -math.inf

    def covers(self: Lease, moment: float) -> bool:
        return self.valid() and self.now() < moment

    Lease.valid = valid  # type: ignore[method-assign]
    Lease.covers = covers  # type: ignore[method-assign]


def _wait_for_nobody() -> None:
    """Return from a change as soon as it is committed."""
    from skilder_keys.app.fence.writer import Writer  # noqa: PLC0415 - each mutation imports what it changes

    async def settle(_self: Writer) -> None:
        pass

    Writer.settle = settle  # type: ignore[method-assign, assignment]


def _wait_for_no_lease() -> None:
    """Evict a reader that has not applied a change at once."""
    from skilder_keys.storage import fence  # noqa: PLC0415 - each mutation imports what it changes

    look = fence.look

    async def without_leases(connection: Connection, revisions: Sequence[Revision]) -> fence.Look:
        seen = await look(connection, revisions)
        return replace(seen, laggards=tuple(replace(each, lease_seconds=0.0) for each in seen.laggards))

    fence.look = without_leases


def _keep_memory_after_eviction() -> None:
    """Register again after an eviction, and keep memory."""
    from skilder_keys.app.authorization.memory import Memory  # noqa: PLC0415 - each mutation imports what it changes

    def drop_all(_self: Memory) -> None:
        pass

    Memory.drop_all = drop_all  # type: ignore[method-assign, assignment]


def _compare_epochs_only() -> None:
    """Take a reader as up to date with any history whose epoch is as high."""
    from skilder_keys.domain.revision import Revision  # noqa: PLC0415 - each mutation imports what it changes
    from skilder_keys.storage import fence  # noqa: PLC0415 - each mutation imports what it changes

    fence._IS_KNOWN = "(fence.epoch >= {epoch} AND {tag}::bigint IS NOT NULL)"  # noqa: SLF001 - that is the mistake
    Revision.__eq__ = lambda one, other: bool(one[0] == other[0])  # type: ignore[method-assign, index]


def _wait_for_no_unknown_reader() -> None:
    """Do not wait for readers that a restored database does not know."""
    from skilder_keys.app.fence.new_server import NewServer  # noqa: PLC0415 - each mutation imports what it changes

    def seconds_left(_self: NewServer, _state: object) -> float:
        return 0.0

    NewServer.seconds_left = seconds_left  # type: ignore[method-assign, assignment]


def _never_read_again() -> None:
    """Keep a key that expires in memory until a change touches it."""
    from skilder_keys.app.fence.lease import Lease  # noqa: PLC0415 - each mutation imports what it changes

    def covers(self: Lease, _moment: float) -> bool:
        return self.valid()

    Lease.covers = covers  # type: ignore[method-assign, assignment]


def _ignore(part: Part) -> None:
    """Apply no change of one kind of part."""
    from skilder_keys.storage import fence  # noqa: PLC0415 - each mutation imports what it changes

    changes_since = fence.changes_since

    async def without_the_part(connection: Connection, epoch: int) -> list[fence.Change]:
        return [
            replace(change, touches=tuple(touch for touch in change.touches if touch.part is not part))
            for change in await changes_since(connection, epoch)
        ]

    fence.changes_since = without_the_part


def _ignore_keys(condition: str) -> None:
    """Apply no change of a key that is as the condition says after it."""
    from skilder_keys.storage import fence  # noqa: PLC0415 - each mutation imports what it changes

    changes_since = fence.changes_since

    async def without_the_keys(connection: Connection, epoch: int) -> list[fence.Change]:
        changes = await changes_since(connection, epoch)
        key_ids = [touch.key_id for change in changes for touch in change.touches if touch.key_id]
        rows = await connection.fetch(f"SELECT id FROM key WHERE id = ANY($1) AND {condition}", key_ids)  # noqa: S608
        ignored = {row["id"] for row in rows}
        return [
            replace(change, touches=tuple(touch for touch in change.touches if touch.key_id not in ignored))
            for change in changes
        ]

    fence.changes_since = without_the_keys


def _take_each_change_for_a_resume() -> None:
    """Grant again what memory knew of a key before its suspension, whichever change ends that."""
    from skilder_keys.app.authorization.key_cache import KeyCache  # noqa: PLC0415 - each mutation imports what it changes
    from skilder_keys.app.authorization.snapshot import OPEN  # noqa: PLC0415
    from skilder_keys.domain.denial import DenialReason  # noqa: PLC0415
    from skilder_keys.domain.token import id_text  # noqa: PLC0415

    apply = KeyCache.apply
    granted: dict[str, KnownKey] = {}

    def overtaken(self: KeyCache, key_id: KeyId | None, workspace_id: WorkspaceId | None, epoch: int) -> None:
        known = None if key_id is None else self._keys.get(id_text(key_id))
        apply(self, key_id, workspace_id, epoch)
        if known is not None and known.denial is None:
            granted[id_text(known.id)] = known
        elif known is not None and known.denial is DenialReason.SUSPENDED and id_text(known.id) in granted:
            before = self._keys[id_text(known.id)] = granted[id_text(known.id)]
            before._until = OPEN  # noqa: SLF001 - that is the mistake

    KeyCache.apply = overtaken  # type: ignore[method-assign]


def _wait_for_nobody_after_many() -> None:
    """Return from RevokeKeys as soon as it is committed."""
    from skilder_keys.app.key_revocations import KeyRevocations  # noqa: PLC0415 - each mutation imports what it changes

    revoke = KeyRevocations.revoke

    async def settle() -> None:
        pass

    async def at_once(self: KeyRevocations, *arguments: Any, **options: Any) -> Any:
        self._writer = SimpleNamespace(settle=settle)  # type: ignore[assignment]
        return await revoke(self, *arguments, **options)

    KeyRevocations.revoke = at_once  # type: ignore[method-assign]


def _count_a_row_again() -> None:
    """Append a row to the journal each time that it is sent, though its commit was only not confirmed."""
    from skilder_keys.storage import activity_journal  # noqa: PLC0415 - each mutation imports what it changes

    append, guard = activity_journal.append, " AND seq < $2"

    async def anew(connection: Connection, *row: Any) -> tuple[activity_journal.Appended, float]:
        async def fetchrow(sql: str, *values: object) -> Record | None:
            assert guard in sql, "the mistake fits the code"
            return await connection.fetchrow(sql.replace(guard, ""), *values)

        return await append(SimpleNamespace(fetchrow=fetchrow), *row)  # type: ignore[arg-type]

    activity_journal.append = anew  # type: ignore[assignment]


def _forget_counts(when: str) -> None:
    """Write no counts at the end of a worker, or drop those that could not be written at once."""
    from skilder_keys.app.activity.writer import ActivityWriter  # noqa: PLC0415 - each mutation imports what it changes
    from skilder_keys.domain.errors import UnavailableError  # noqa: PLC0415
    from skilder_keys.storage.activity_journal import Appended  # noqa: PLC0415

    append = ActivityWriter._append  # noqa: SLF001 - that is the mistake

    async def close(_self: ActivityWriter) -> None:
        pass

    async def once(self: ActivityWriter, row: JournalRow) -> Appended:
        try:
            return await append(self, row)
        except UnavailableError:
            return Appended.YES

    if when == "drain":
        ActivityWriter.close = close  # type: ignore[method-assign, assignment]
    else:
        ActivityWriter._append = once  # type: ignore[method-assign]  # noqa: SLF001


def _fold(before: str, after: str) -> None:
    """Fold by another statement."""
    from skilder_keys.storage import activity_fold  # noqa: PLC0415 - each mutation imports what it changes

    assert before in activity_fold._FOLD, "the mistake fits the code"  # noqa: SLF001 - that is the mistake
    activity_fold._FOLD = activity_fold._FOLD.replace(before, after)  # noqa: SLF001


def _count_batches_early() -> None:
    """Count each token of a batch twice: as soon as it is decided, and at the end."""
    from skilder_keys.app.authorization.authorizer import Authorizer  # noqa: PLC0415 - each mutation imports what it changes

    decide = Authorizer._decide  # noqa: SLF001 - that is the mistake

    def counted(self: Authorizer, found: Any, query: Any, limits: Any, shared: Any) -> Any:
        decision = decide(self, found, query, limits, shared)
        if shared is not None:
            self._count(found, query, decision, "service")
        return decision

    Authorizer._decide = counted  # type: ignore[method-assign]  # noqa: SLF001


MUTATIONS: dict[str, Callable[[], None]] = {
    "no-invalidation": _keep_overtaken_loads,
    "no-lease-check": _ignore_the_lease_end,
    "no-writer-wait": _wait_for_nobody,
    "no-lease-wait": _wait_for_no_lease,
    "no-clean-start": _keep_memory_after_eviction,
    "no-tag": _compare_epochs_only,
    "no-unknown-readers": _wait_for_no_unknown_reader,
    "no-expiry": _never_read_again,
    "no-suspension": partial(_ignore_keys, "suspended_at IS NOT NULL AND revoked_at IS NULL"),
    "no-narrowing": partial(_ignore_keys, "limited_to_hats AND revoked_at IS NULL"),
    "no-networks": partial(_ignore_keys, "networks IS NOT NULL AND revoked_at IS NULL"),
    "no-rotation": partial(_ignore_keys, "expires_at IS NOT NULL AND revoked_at IS NULL"),
    "first-of-family": partial(_ignore_keys, "predecessor_id IS NOT NULL AND revoked_at IS NOT NULL"),
    "resume-by-revoke": _take_each_change_for_a_resume,
    "no-bulk-wait": _wait_for_nobody_after_many,
    "no-member": partial(_ignore, Part.MEMBER),
    "no-hat": partial(_ignore, Part.HAT),
    "no-skill": partial(_ignore, Part.SKILL),
    "no-tool": partial(_ignore, Part.TOOL),
    "count-again": _count_a_row_again,
    "no-last-flush": partial(_forget_counts, "drain"),
    "no-second-flush": partial(_forget_counts, "outage"),
    "fold-replaces": partial(_fold, "count = fact.count + excluded.count", "count = excluded.count"),
    "fold-keeps-rows": partial(
        _fold,
        "DELETE FROM activity_journal WHERE id = ANY($1::bigint[])",
        "UPDATE activity_journal SET minute = minute WHERE id = ANY($1::bigint[])",
    ),
    "count-twice": _count_batches_early,
}


def main(mutation: str, descriptor: int) -> None:
    """Work as a worker does, except for one mistake."""
    MUTATIONS[mutation]()
    from skilder_keys.worker.__main__ import main as work  # noqa: PLC0415 - after the code is changed

    work(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
