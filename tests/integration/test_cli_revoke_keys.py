"""`keys revoke` with options that choose many keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from skilder_keys.app import key_revocations
from tests.support.command_line import CommandLine
from tests.support.rows import insert_key
from tests.support.transport import ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import asyncpg

    from tests.support.service import Service

pytestmark = ONLY_GRPCIO

REVOKE = ("keys", "revoke", "-w", "acme")
IDLE = (*REVOKE, "--unused-since", "90d")


@pytest.fixture
async def command(service: Service, sql: asyncpg.Connection[Any], tmp_path: Path) -> CommandLine:
    """The command line, and five keys of `acme`, three of which were not used for 100 days."""
    await service.operator.apply(small_workspace())
    for number in range(5):
        used = datetime.now(UTC) - timedelta(days=100 if number < 3 else 10, hours=number)
        await insert_key(sql, description=f"Bot {number}", created_at=used, last_used_at=used)
    return CommandLine(service, tmp_path)


async def revoked(sql: asyncpg.Connection[Any]) -> set[str]:
    """Return the descriptions of the revoked keys."""
    return {row[0] for row in await sql.fetch("SELECT description FROM key WHERE revoked_at IS NOT NULL")}


async def test_a_dry_run_lists_the_keys(command: CommandLine, sql: asyncpg.Connection[Any]) -> None:
    """Those that were not used for longest first. Nothing is asked and nothing changes."""
    done = await command(*IDLE, "--dry-run")
    assert done.returncode == 0
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[3] for row in rows] == ["description", "Bot 2", "Bot 1", "Bot 0"]
    assert rows[1][8] == "idle for 100 days"
    assert "This would revoke 3 keys." in done.stderr
    response = await command.json(*IDLE, "--dry-run")
    assert (response["key_count"], len(response["key_ids"])) == (3, 3)
    assert await revoked(sql) == set()


async def test_a_script_says_yes(command: CommandLine, sql: asyncpg.Connection[Any]) -> None:
    """Without a terminal nobody is asked, so nothing is revoked without --yes, nor more than --max-keys."""
    refused = await command(*IDLE)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    refused = await command(*IDLE, "--yes", "--max-keys", "2")
    assert (refused.returncode, "3 keys match, and --max-keys allows 2" in refused.stderr) == (5, True), refused.stderr
    assert await revoked(sql) == set()
    done = await command(*IDLE, "--yes", "--max-keys", "3", "--reason", "idle")
    assert (done.stdout, done.stderr) == ("Revoked 3 keys.\n", "")
    assert await revoked(sql) == {"Bot 0", "Bot 1", "Bot 2"}
    assert await sql.fetchval("SELECT DISTINCT revoke_reason FROM key WHERE revoked_at IS NOT NULL") == "idle"
    again = await command(*IDLE, "--yes")
    assert (again.returncode, again.stdout) == (0, "Revoked 0 keys.\n")


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
async def test_a_person_is_asked(command: CommandLine, sql: asyncpg.Connection[Any], answer: str, code: int) -> None:
    """With the number and some of the keys. The progress is shown on the terminal, and the result is the output."""
    name = "Bot\x1b[2J2"
    await sql.execute("UPDATE key SET description = $1 WHERE description = 'Bot 2'", name)
    done = await command.terminal(*IDLE, answer=answer)
    assert "3 keys of workspace acme match, for example:" in done.terminal
    assert "Bot 1" in done.terminal
    assert ("Bot\\x1b[2J2" in done.terminal, name in done.terminal) == (True, False)
    assert "Everything that uses these 3 keys stops working at once." in done.terminal
    assert (done.returncode == 0) == (code == 0)
    assert ("Revoked 3 of 3 keys" in done.terminal) == (code == 0)
    assert (done.stdout == "Revoked 3 keys.\n") == (code == 0)
    assert await revoked(sql) == ({"Bot 0", "Bot 1", name} if code == 0 else set())


async def test_very_many_keys_are_revoked_in_several_calls(
    command: CommandLine, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command repeats the call until no key is left, and reports all of them."""
    monkeypatch.setattr(key_revocations, "MAX_REVOKED", 2)
    response = await command.json(*REVOKE, "--search", "bot", "--yes")
    assert (response["key_count"], len(set(response["key_ids"]))) == (5, 5)
    assert len(await revoked(sql)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("keys", "revoke", "--unused-since", "90d", "--yes"), "set --workspace"),
        ((*REVOKE, "--yes"), "give KEY, --token, or options that choose the keys"),
        ((*IDLE, "WSK_0123456789", "--yes"), "give KEY, --token, or options that choose the keys"),
        ((*IDLE, "--token", "--yes"), "give KEY, --token, or options that choose the keys"),
        ((*REVOKE, "WSK_0123456789", "--dry-run"), "--dry-run and --max-keys are for options that choose keys"),
        ((*REVOKE, "--search", "!", "--yes"), "--search is '!', which has no word"),
        ((*REVOKE, "--search", "", "--yes"), "--search is empty"),
    ],
)
async def test_a_command_that_says_too_little_or_too_much_is_refused(
    command: CommandLine, sql: asyncpg.Connection[Any], arguments: tuple[str, ...], words: str
) -> None:
    """Nothing is revoked."""
    refused = await command(*arguments)
    assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
    assert await revoked(sql) == set()
