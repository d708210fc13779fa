"""`keys list` and `keys count` by the options that choose keys, and the labels that `keys issue` gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.rows import insert_key
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.support.service import Service

pytestmark = ONLY_GRPCIO


@pytest.fixture
def command(service: Service, tmp_path: Path) -> CommandLine:
    """The command line, with the small workspace applied."""
    return CommandLine(service, tmp_path)


async def test_labels_are_given_shown_and_looked_for(command: CommandLine) -> None:
    """A label has a value, which may be empty. Several have to match."""
    issue = ("keys", "issue", "-w", "acme", "--all-hats")
    await command(*issue, "-l", "team=support", "--label", "env=", "Slack Bot")
    await command(*issue, "--label", "team=sales", "Mail Bot")

    async def listed(*options: str) -> list[str]:
        found = await command.json("keys", "list", "-w", "acme", *options)
        return [key["description"] for key in found["keys"]]

    assert await listed("--label", "team") == ["Mail Bot", "Slack Bot"]
    assert await listed("-l", "team=support") == await listed("-l", "env=") == ["Slack Bot"]
    assert await listed("-l", "team", "-l", "env") == ["Slack Bot"]
    assert await listed("-l", "team=support", "-l", "team=sales") == []
    (key,) = (await command.json("keys", "list", "-w", "acme", "-l", "env"))["keys"]
    assert key["labels"] == {"team": "support", "env": ""}
    assert "labels\tenv=, team=support\n" in (await command("keys", "show", key["id"])).stdout
    for label, words in (
        (["team"], "has no value"),
        (["a=1", "a=2"], "given twice"),
        (["-a=1"], "--label has '-a=1': its name has to be 1 to 63 letters"),
    ):
        options = [part for each in label for part in ("--label", each)]
        failed = await command(*issue, *options, "Bot")
        assert (failed.returncode, words in failed.stderr) == (2, True), failed.stderr
    assert "--label (number 1) is" in (await command("keys", "list", "-w", "acme", "-l", "a b")).stderr


async def test_keys_are_looked_for_by_what_people_know(command: CommandLine, sql: asyncpg.Connection[Any]) -> None:
    """Words, hint, who issued them, and times, as lengths of time or dates."""
    await insert_key(sql, description="Slack bot of support", created_by_kind="user", created_by_id="ada")
    await insert_key(sql, description="Mail bot", created_by_id="console")
    await insert_key(sql, description="Runtime", type="runtime", runtime_id="rt-7")

    async def listed(*options: str) -> list[str]:
        found = await command.json("keys", "list", "-w", "acme", *options)
        return [key["description"] for key in found["keys"]]

    assert await listed("--search", "BOT slack") == ["Slack bot of support"]
    assert await listed("--created-by", "ada") == await listed("--created-by", "user:ada") == ["Slack bot of support"]
    assert await listed("--created-by", "caller:console") == ["Mail bot"]
    assert await listed("--created-by", "console") == []
    assert await listed("--runtime", "rt-7", "--runtime", "rt-8") == ["Runtime"]
    assert await listed("--unlimited", "hats") == ["Mail bot", "Slack bot of support"]
    (key,) = (await command.json("keys", "list", "-w", "acme", "--search", "mail"))["keys"]
    assert await listed("--hint", key["hint"]) == ["Mail bot"]
    assert await listed("--family-id", key["family_id"]) == ["Mail bot"]
    assert await listed("--created-after", "1h") == await listed()
    assert await listed("--created-before", "1h") == await listed("--created-after", "2999-01-01") == []
    assert len(await listed("--created-before", "2999-01-01T12:00Z")) == 3
    counted = await command.json("keys", "count", "-w", "acme", "--search", "bot")
    assert [each["count"] for each in counted["counts"]] == [2]
    for options, words in (
        (["--search", "!"], "--search is '!', which has no word"),
        (["--hint", "WSK"], "--hint is 'WSK', which is not a hint"),
        (["--hint", ""], "--hint is empty"),
        (["--unused-since", "soon"], "--unused-since"),
        (["--unused-since", "999999999w"], "is too long"),
    ):
        failed = await command("keys", "list", "-w", "acme", *options)
        assert (failed.returncode, words in failed.stderr) == (2, True), failed.stderr


async def test_keys_that_break_the_key_policy_are_looked_for(
    command: CommandLine, sql: asyncpg.Connection[Any]
) -> None:
    """All rules, or those that are named. Without a policy, no key breaks one."""
    await insert_key(sql, description="Old", created_at=datetime.now(UTC) - timedelta(days=91))
    await insert_key(sql, description="Limited", limited_to_hats=True)
    await insert_key(sql, description="Wide")

    async def listed(*options: str) -> list[str]:
        found = await command.json("keys", "list", "-w", "acme", *options)
        return sorted(key["description"] for key in found["keys"])

    assert await listed("--violates-policy") == await listed("--violates", "max_lifetime") == []
    await sql.execute("UPDATE workspace SET require_hat_limit = true, revoke_unused_after = '90 days'")
    assert await listed("--violates-policy") == ["Old", "Wide"]
    assert await listed("--violates", "revoke_unused_after") == ["Old"]
    assert await listed("--violates", "revoke_unused_after", "--violates", "require_hat_limit") == ["Old", "Wide"]
    assert await listed("--violates", "max_lifetime") == []
    assert await listed("--violates-policy", "--violates", "revoke_unused_after") == ["Old"]
    counted = await command.json("keys", "count", "-w", "acme", "--violates-policy")
    assert [each["count"] for each in counted["counts"]] == [2]
    failed = await command("keys", "list", "-w", "acme", "--violates", "max_age")
    assert (failed.returncode, "'max_lifetime'" in failed.stderr) == (2, True), failed.stderr
    done = await command("keys", "revoke", "-w", "acme", "--violates", "require_hat_limit", "--yes", "--max-keys", "2")
    assert done.returncode == 0, done.stderr
    assert await listed("--violates-policy") == []
    assert await listed("--state", "active") == ["Limited"]


async def test_what_was_not_used_for_longest_comes_first(command: CommandLine, sql: asyncpg.Connection[Any]) -> None:
    """And is marked after 30 days, if the key could be used."""
    now = datetime.now(UTC)
    for days in (1, 31, 100, 29):
        await insert_key(sql, description=f"used {days} days ago", last_used_at=now - timedelta(days=days, hours=1))
    revocation = {"revoked_at": now, "revoked_by_kind": "user", "revoked_by_id": "ada", "revoke_reason": ""}
    await insert_key(sql, description="revoked", last_used_at=now - timedelta(days=50), **revocation)
    shown = await command("keys", "list", "-w", "acme", "--sort", "last-used")
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [(row[3], row[8]) for row in rows] == [
        ("description", "attention"),
        ("used 100 days ago", "idle for 100 days"),
        ("revoked", "-"),
        ("used 31 days ago", "idle for 31 days"),
        ("used 29 days ago", "-"),
        ("used 1 days ago", "-"),
    ]
