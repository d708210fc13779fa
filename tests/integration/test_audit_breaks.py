"""Where a break of the chain of audit events is found: planted edits, gaps, deletions, and ends that were cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.audit_chain import GENESIS
from skilder_keys.domain.audit_check import ExpectedHead
from tests.support.audit import add_event, as_owner, findings, head, two_workspaces
from tests.support.rows import insert_key

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]

REHASH = """
UPDATE audit_event SET hash = sha256((SELECT hash FROM audit_event WHERE workspace_id = 'acme' AND number = {0} - 1))
WHERE workspace_id = 'acme' AND number = {0}
"""


@pytest.fixture
async def acme(sql: Sql) -> Sql:
    """A database with two workspaces, with five events each."""
    await two_workspaces(sql)
    return sql


ERASE = """
UPDATE audit_event SET actor = NULL, details = '{}', salt = NULL, private_digest = sha256('')
WHERE workspace_id = 'acme' AND number = 4
"""
MOVE = "UPDATE audit_event SET workspace_id = 'globex', number = 6 WHERE workspace_id = 'acme' AND number = 5"
EDITS = {
    "action": "action = 'workspace.updated'",
    "key": "key_id = (SELECT id FROM key)",
    "caller": "caller = 'other'",
    "actor": "actor = 'bob'",
    "no actor": "actor = NULL",
    "peer": "peer = ''",
    "details": "details = '{\"version\": 7}'",
    "time": "at = at - interval '1 microsecond'",
    "salt": "salt = uuid_send(gen_random_uuid())",
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("number", [1, 3, 5])
async def test_an_edit_is_found_where_it_is(acme: Sql, edit: str, number: int) -> None:
    """Of every column, in the first, in any and in the last event; other workspaces are sound."""
    await insert_key(acme)
    await as_owner(
        acme,
        f"UPDATE audit_event SET {EDITS[edit]} WHERE workspace_id = 'acme' AND number = {number}",  # noqa: S608
    )
    assert await findings(acme) == [("acme", number, "edited")]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["DELETE FROM audit_event WHERE workspace_id = 'acme' AND number = 3"], [(3, "missing")]),
        (["DELETE FROM audit_event WHERE workspace_id = 'acme' AND number IN (2, 3)"], [(2, "missing")]),
        (["DELETE FROM audit_event WHERE workspace_id = 'acme' AND number = 1"], [(1, "missing")]),
        (["DELETE FROM audit_event WHERE workspace_id = 'acme' AND number > 3"], [(4, "cut off")]),
        (["DELETE FROM audit_event WHERE workspace_id = 'acme'"], [(1, "cut off")]),
        (
            [
                "DELETE FROM audit_event WHERE workspace_id = 'acme' AND number = 3",
                "UPDATE audit_event SET number = number - 1 WHERE workspace_id = 'acme' AND number = 4",
                "UPDATE audit_event SET number = number - 1 WHERE workspace_id = 'acme' AND number = 5",
            ],
            [(3, "edited"), (4, "edited"), (5, "cut off")],
        ),
        ([REHASH.format(3)], [(3, "edited"), (4, "edited")]),
        ([REHASH.format(5)], [(5, "edited"), (5, "head differs")]),
        (
            ["UPDATE audit_event SET number = NULL, hash = NULL WHERE workspace_id = 'acme' AND number = 2"],
            [(2, "missing"), (0, "older events differ")],
        ),
        (
            ["UPDATE audit_event SET workspace_id = 'globex', number = 6 WHERE workspace_id = 'acme' AND number = 5"],
            None,
        ),
        (["DELETE FROM audit_head WHERE workspace_id = 'acme'"], [(5, "head differs")]),
        (["UPDATE audit_head SET number = 9 WHERE workspace_id = 'acme'"], [(6, "cut off")]),
        (
            [ERASE],
            [(4, "edited"), (4, "erased")],
        ),
    ],
)
async def test_a_broken_chain_is_found_where_it_is(
    acme: Sql, statements: list[str], expected: list[tuple[int, str]] | None
) -> None:
    """Gaps, deletions, events that were moved or hashed anew, and ends that were cut off."""
    await as_owner(acme, *statements)
    found = await findings(acme)
    if expected is None:
        assert found == [("acme", 5, "cut off"), ("globex", 6, "edited"), ("globex", 6, "head differs")]
    else:
        assert found == [("acme", *each) for each in expected]


async def test_a_rewritten_chain_shows_against_a_noted_head(acme: Sql) -> None:
    """Whoever rewrites the whole chain, its end and the head makes another hash; only a head noted before shows it."""
    noted = [await head(acme), ExpectedHead.parse(str(await head(acme, "globex")))]
    assert await findings(acme, expected=noted) == []
    await as_owner(
        acme,
        "DELETE FROM audit_event WHERE workspace_id = 'acme' AND number = 5",
        "UPDATE audit_head SET (number, hash) = (SELECT number, hash FROM audit_event"
        " WHERE workspace_id = 'acme' AND number = 4) WHERE workspace_id = 'acme'",
    )
    assert await findings(acme) == []
    assert await findings(acme, expected=noted) == [("acme", 5, "cut off")]
    await add_event(acme, details='{"version": 5, "forged": true}')
    assert await findings(acme) == []
    assert await findings(acme, expected=noted) == [("acme", 5, "head differs")]
    assert await findings(acme, "globex") == []
    with pytest.raises(ValueError, match="a head is"):
        ExpectedHead.parse(f"acme:-1:{GENESIS.hex()}")
