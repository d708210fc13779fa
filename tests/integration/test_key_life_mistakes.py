"""A short life of keys finds each of these mistakes, so that one without a finding says something."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from skilder_keys.app import key_families
from skilder_keys.app.authorization.key_reads import KeyReads
from skilder_keys.app.authorization.memory import Memory
from skilder_keys.app.key_changes import KeyChanges
from skilder_keys.app.keys import Keys
from skilder_keys.storage import key_families as families
from tests.integration.test_key_life import live
from tests.support.lengths import LONG, LONGEST, some_of
from tests.support.schedules.plant import Edit, plant
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import asyncpg

    from tests.support.service import Service

    Sql = asyncpg.Connection[Any]

Test = TypeVar("Test", bound="Callable[..., Any]")

MISTAKES: dict[str, Edit] = {
    "a family ends without those that never expire": Edit(
        families, "family_id = ANY($1::uuid[]) ORDER", "family_id = ANY($1::uuid[]) AND expires_at IS NOT NULL ORDER"
    ),
    "a grant in memory outlives its key": Edit(KeyReads, "fresh_until(asked_at,", "fresh_until(asked_at + 1000,"),
    "a successor is not limited to hats": Edit(families, "is not None and predecessor.hat_ids:", "is None:"),
    "a successor may be used from anywhere": Edit(families, '", ".join(COPIED)', '", ".join(COPIED[:-1])'),
    "a rotated key lives for longer than its grace": Edit(
        families, "make_interval(secs => $2)", "make_interval(secs => $2 + 9)"
    ),
    "a suspended key is rotated": Edit(key_families, "is not KeyState.ACTIVE:", "is KeyState.REVOKED:"),
    "a key is rotated twice": Edit(
        key_families, "if successor_id is not None:\n        raise", "if False:\n        raise"
    ),
    "a runtime instance lengthens its life": Edit(
        key_families, ", MIN_LIFETIME, planned)", ", MIN_LIFETIME, MAX_LIFETIME)"
    ),
    "a runtime instance keeps the keys that it had": Edit(
        Keys, "await end_previous_keys(transaction, spec, request, origin)", "pass"
    ),
    "a revoked key is resumed": Edit(
        KeyChanges, "_require_unrevoked(key)\n            if suspended != ", "if suspended != "
    ),
    "a resume changes nothing": Edit(KeyChanges, "key = await keys.resume(transaction, parsed)", "pass"),
    "an update need not keep to the policy": Edit(
        KeyChanges,
        "if changes:\n                await hold_change",
        "if changes:\n                str or hold_change",
    ),
    "a successor need not keep to the policy": Edit(
        key_families, "hold_rotation(policy, key, planned, is_stated=spec.lifetime is not None)", "planned"
    ),
    "memory outlives the lease": Edit(Memory, "self._keys.drop_all()", "pass"),
}
KEPT = (
    "CREATE OR REPLACE FUNCTION forget_unrotated_expiry() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
)
"""An expiry that was said after a rotation does not count for the next successor."""
UNTOUCHED = ("suspended_at", "networks", "expires_at")
"""Facts of keys of which memory does not learn."""


_LONG = (
    ONLY_GRPCIO,
    pytest.mark.long,
    pytest.mark.own_service,
    pytest.mark.skipif(not LONG, reason="needs a minute: set SKILDER_KEYS_TEST_LONG=1"),
)


def long(test: Test) -> Test:
    """Mark a test of the long form, whose service is in this process, where the mistakes are."""
    for mark in _LONG:
        test = mark(test)
    return test


def test_each_mistake_fits_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the short form sees when the code has changed, and a mistake has to change with it."""
    for mistake in MISTAKES.values():
        with monkeypatch.context() as planting:
            plant(mistake, planting)


async def finds(service: Service, sql: Sql, folder: Path) -> None:
    """Expect that a short life finds a mistake."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    with pytest.raises(AssertionError):
        await live(service, sql, folder, seed, 1)


@long
@pytest.mark.parametrize("mistake", list(MISTAKES) if LONGEST else some_of(MISTAKES, 5))
async def test_a_mistake_is_found(
    empty_service: Service, sql: Sql, tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one short life, whatever its seed."""
    plant(MISTAKES[mistake], monkeypatch)
    await finds(empty_service, sql, tmp_path)


@long
@pytest.mark.parametrize("fact", UNTOUCHED)
async def test_a_fact_that_touches_nothing_is_found(
    empty_service: Service, sql: Sql, tmp_path: Path, fact: str
) -> None:
    """The trigger of changes does not look at it."""
    made = await sql.fetchval("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'key_change'")
    looked = f"(old.{fact} IS DISTINCT FROM new.{fact})"
    assert looked in made
    await sql.execute(
        f"DROP TRIGGER key_change ON key; {made.replace(looked, '(false)')};"
        " ALTER TABLE key ENABLE ALWAYS TRIGGER key_change"
    )
    await finds(empty_service, sql, tmp_path)


@long
async def test_an_expiry_that_is_forgotten_is_found(empty_service: Service, sql: Sql, tmp_path: Path) -> None:
    """The trigger lets the lifetime stay that the key had before its rotation."""
    await sql.execute(KEPT)
    await finds(empty_service, sql, tmp_path)
