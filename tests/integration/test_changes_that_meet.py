"""Two changes of a key at once, in each order: the later one waits, and builds on what the earlier one has made.

The order is certain: the first one has done all but commit when the second one begins. Small mistakes in the code,
which let one of them overtake the other, are found.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from skilder_keys.app import key_changes, key_families
from skilder_keys.app.key_families import KeyFamilies, RotatedKey
from skilder_keys.domain.errors import KeyNotActiveError
from skilder_keys.domain.key_update import KeyUpdate
from skilder_keys.domain.keys import Key
from skilder_keys.domain.rotation import RotationSpec
from skilder_keys.storage import keys
from tests.support.fleet import ORIGIN
from tests.support.schedules.plant import Edit, plant
from tests.support.waiting import until_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]
    Meeting = Callable[[Process, Sql], Awaitable[None]]

INSIDE, OUTSIDE = "10.1.2.3", "192.0.2.1"
NO_HATS = KeyUpdate(("hat_limit",), ("hat_limit",), hat_ids=())
NETWORK = KeyUpdate(("network_limit",), ("network_limit",), networks=("10.0.0.0/8",))


async def one_after_the_other(sql: Sql, first: Awaitable[Any], second: Awaitable[Any]) -> list[Any]:
    """Return the results, or errors, of two changes: the second one begins when the first one is about to commit."""
    async with sql.transaction():
        await sql.execute("SELECT FROM fence FOR UPDATE")  # which each commit of a change needs
        begun = [asyncio.ensure_future(first)]
        await until_blocked(sql, 1)
        begun.append(asyncio.ensure_future(second))
        await until_blocked(sql, 2)
    return await asyncio.gather(*begun, return_exceptions=True)


async def suspended(process: Process) -> tuple[Key, str]:
    """Return a key, which memory knows to be suspended, and its token."""
    key, token = await process.issue()
    assert await process.outcome(token) == "granted"
    await process.changes.suspend(str(key.id), "", ORIGIN)
    assert await process.outcome(token) == "SUSPENDED"
    return key, token


async def a_resume_meets_a_revoke(process: Process, sql: Sql) -> None:
    """The revoke comes first: it stays, and the resume is refused."""
    key, token = await suspended(process)
    revoke, resume = process.revoke(key), process.changes.resume(str(key.id), "", ORIGIN)
    revoked, resumed = await one_after_the_other(sql, revoke, resume)
    assert revoked is None
    assert await process.outcome(token) == "REVOKED"
    assert isinstance(resumed, KeyNotActiveError)


async def a_revoke_meets_a_resume(process: Process, sql: Sql) -> None:
    """The resume comes first, and the key is revoked all the same."""
    key, token = await suspended(process)
    revoke, resume = process.revoke(key), process.changes.resume(str(key.id), "", ORIGIN)
    resumed, revoked = await one_after_the_other(sql, resume, revoke)
    assert isinstance(resumed, Key)
    assert revoked is None
    assert await process.outcome(token) == "REVOKED"


async def two_updates_meet(process: Process, sql: Sql) -> None:
    """Each limits the key in its own way, and neither undoes the other one."""
    key, token = await process.issue()
    assert await process.outcome(token, "git.commit", OUTSIDE) == "granted"
    changed = (process.changes.update(str(key.id), update, ORIGIN) for update in (NO_HATS, NETWORK))
    results = await one_after_the_other(sql, *changed)
    assert all(isinstance(each, Key) for each in results), results
    assert await process.outcome(token, source_ip=OUTSIDE) == "SOURCE_NOT_ALLOWED"
    assert await process.outcome(token, "git.commit", INSIDE) == "TOOL_NOT_ALLOWED"


async def a_rotation_meets_an_update(process: Process, sql: Sql) -> None:
    """The update comes first, and the successor is limited as its predecessor is then."""
    key, token = await process.issue()
    assert await process.outcome(token, "git.commit") == "granted"
    update = process.changes.update(str(key.id), NETWORK, ORIGIN)
    updated, rotated = await one_after_the_other(sql, update, rotation(process, key))
    assert isinstance(updated, Key)
    assert isinstance(rotated, RotatedKey)
    for each in (token, rotated.token.reveal()):
        assert await process.outcome(each, "git.commit", OUTSIDE) == "SOURCE_NOT_ALLOWED"


async def a_rotation_meets_the_end_of_the_family(process: Process, sql: Sql) -> None:
    """The end comes first, and there is no successor."""
    key, token = await process.issue()
    ended, rotated = await one_after_the_other(sql, end(process, key), rotation(process, key))
    assert isinstance(rotated, KeyNotActiveError)
    assert ended.key.revocation is not None
    assert await process.outcome(token) == "REVOKED"


async def the_end_of_the_family_meets_a_rotation(process: Process, sql: Sql) -> None:
    """The rotation comes first, and the generation that it makes ends too."""
    key, token = await process.issue()
    rotated, ended = await one_after_the_other(sql, rotation(process, key), end(process, key))
    assert isinstance(rotated, RotatedKey)
    for each in (token, rotated.token.reveal()):
        assert await process.outcome(each) == "REVOKED"
    assert ended.other_ids == (rotated.key.id,)


def rotation(process: Process, key: Key) -> Awaitable[RotatedKey]:
    """Rotate a key."""
    return _families(process).rotate(str(key.id), RotationSpec(), "", ORIGIN)


def end(process: Process, key: Key) -> Awaitable[Any]:
    """Revoke the family of a key."""
    return _families(process).revoke(str(key.id), "", ORIGIN)


def _families(process: Process) -> KeyFamilies:
    return KeyFamilies(process.database, process.writer, process.verifier)


class Mistake(NamedTuple):
    """A mistake, and what finds it: changes of the code, and of the schema."""

    found_by: Meeting
    edits: tuple[Edit, ...]
    sql: str = "SELECT"


NO_LOCK = Edit(key_changes, "await keys.lock(transaction, key_id)", "pass")
WRITES_ALL = Edit(
    keys,
    "SET suspended_at = NULL,",
    "SET revoked_at = NULL, revoked_by_kind = NULL, revoked_by_id = NULL, revoke_reason = NULL, suspended_at = NULL,",
)
MISTAKES: dict[str, Mistake] = {
    "a resume looks at its key before it has the lock": Mistake(a_resume_meets_a_revoke, (NO_LOCK,)),
    "a resume overtakes a revoke": Mistake(
        a_resume_meets_a_revoke, (NO_LOCK, WRITES_ALL), "ALTER TABLE key DISABLE TRIGGER key_refuse_change"
    ),
    "an update writes what it saw before it had the lock": Mistake(two_updates_meet, (NO_LOCK,)),
    "a rotation does not lock the family": Mistake(
        a_rotation_meets_the_end_of_the_family,
        (Edit(key_families, "await key_families.lock(transaction, (key.family_id, key.id))", "pass"),),
    ),
    "a successor is copied before its predecessor is locked": Mistake(
        a_rotation_meets_an_update,
        (Edit(key_families, "await key_families.lock(transaction, (key.family_id, key.id))", "pass"),),
    ),
    "a family is listed before it is locked": Mistake(
        the_end_of_the_family_meets_a_rotation,
        (
            Edit(
                key_families,
                "await key_families.lock(transaction, families)\n    members = await"
                " key_families.members(transaction, families)",
                "members = await key_families.members(transaction, families)\n    await"
                " key_families.lock(transaction, families)",
            ),
        ),
    ),
}
MEETINGS: tuple[Meeting, ...] = (
    a_resume_meets_a_revoke,
    a_revoke_meets_a_resume,
    two_updates_meet,
    a_rotation_meets_an_update,
    a_rotation_meets_the_end_of_the_family,
    the_end_of_the_family_meets_a_rotation,
)


async def test_the_later_change_builds_on_the_earlier_one(reader: Process, sql: Sql) -> None:
    """Whichever two meet, and in each order."""
    for meeting in MEETINGS:
        await meeting(reader, sql)


@pytest.mark.parametrize("name", MISTAKES)
async def test_each_mistake_is_found(reader: Process, sql: Sql, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the meeting of two changes in which it matters."""
    mistake = MISTAKES[name]
    for edit in mistake.edits:
        plant(edit, monkeypatch)
    await sql.execute(mistake.sql)
    with pytest.raises(AssertionError):
        await mistake.found_by(reader, sql)
