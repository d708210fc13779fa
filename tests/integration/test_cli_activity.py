"""`activity list`, `usage` and `keys show`: what people and programs see of what keys were used for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from skilder.keys.v1.authorization_service_pb2 import DENIAL_REASON_EXPIRED, DENIAL_REASON_UNKNOWN
from skilder.keys.v1.key_pb2 import KEY_TYPE_USER
from tests.support.activity_facts import Fact, insert_facts, insert_unproven
from tests.support.command_line import CommandLine
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from skilder.keys.v1.key_pb2 import Key
    from tests.support.service import Service

pytestmark = ONLY_GRPCIO

DAY = 1440


@pytest.fixture
def command(service: Service, tmp_path: Path) -> CommandLine:
    """The command line, with the small workspace applied."""
    return CommandLine(service, tmp_path)


@pytest.fixture
async def keys(service: Service, sql: asyncpg.Connection[Any]) -> tuple[Key, Key]:
    """A key that was used in two of the last days, and a key of `bob` that was denied once."""
    bot = (await service.operator.issue(description="Slack Bot")).key
    bobs = (await service.operator.issue(type=KEY_TYPE_USER, user_id="bob", description="Bob's")).key
    minute = int(time.time()) // 60
    await insert_facts(
        sql,
        [
            Fact(minute, UUID(bot.id), "slack.post", count=1, source="192.0.2.1"),
            Fact(minute, UUID(bobs.id), "", count=2, outcome=DENIAL_REASON_EXPIRED),
            Fact(minute - 3 * DAY, UUID(bot.id), "web.search", caller="console", count=8),
        ],
    )
    await insert_unproven(sql, minute, ["gateway"], DENIAL_REASON_UNKNOWN, "USK_4mBq8Jd41x")
    return bot, bobs


def rows(text: str) -> list[dict[str, str]]:
    """Return the rows of a table that was written to a pipe."""
    head, *lines = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


async def test_activity_is_listed_for_people_and_programs(command: CommandLine, keys: tuple[Key, Key]) -> None:
    """The newest first, with hints of keys; and chosen by each option."""
    bot, bobs = keys
    found = rows((await command("activity", "list", "-w", "acme")).stdout)
    assert [(row["hint"], row["tool"], row["verdict"], row["calls"], row["source"]) for row in found[:2]] in (
        [(bot.hint, "slack.post", "granted", "1", "192.0.2.1"), (bobs.hint, "-", "expired", "2", "-")],
        [(bobs.hint, "-", "expired", "2", "-"), (bot.hint, "slack.post", "granted", "1", "192.0.2.1")],
    )
    assert [(row["key"], row["calls"], row["caller"]) for row in found[2:]] == [(bot.id, "8", "console")]
    # The service may have rolled the minutes of that day up.
    assert (found[0]["span"], found[2]["span"] in {"minute", "hour"}) == ("minute", True)

    async def counts(*options: str) -> list[str]:
        document = await command.json("activity", "list", "-w", "acme", *options)
        return sorted(each["count"] for each in document["activities"])

    for options, expected in (
        (("--key", bot.hint), ["1", "8"]),
        (("--family-id", bobs.id), ["2"]),
        (("--user", "bob"), ["2"]),
        (("--tool", "web.search"), ["8"]),
        (("--caller", "gateway"), ["1", "2"]),
        (("--verdict", "granted"), ["1", "8"]),
        (("--reason", "expired", "--reason", "revoked"), ["2"]),
        (("--since", "1d"), ["1", "2"]),
        (("--until", "1d"), ["8"]),
        (("--actor", "bob"), ["2"]),
        (("--limit", "2"), ["1", "2"]),
    ):
        assert await counts(*options) == expected, options
    limited = await command("activity", "list", "-w", "acme", "--limit", "2")
    assert "There are more" in limited.stderr


async def test_denials_of_unknown_tokens_are_listed_apart(command: CommandLine, keys: tuple[Key, Key]) -> None:
    """They are of no workspace."""
    assert keys
    (row,) = rows((await command("activity", "list", "--unproven", "--caller", "gateway")).stdout)
    assert (row["hint"], row["verdict"], row["calls"]) == ("USK_4mBq8Jd41x", "unknown", "1")
    for options in ((), ("--unproven", "-w", "acme")):
        failed = await command("activity", "list", *options)
        assert (failed.returncode, "either --workspace or --unproven" in failed.stderr) == (2, True)
    failed = await command("activity", "list", "--unproven", "--user", "bob")
    assert (failed.returncode, "--user is of keys" in failed.stderr) == (2, True), failed.stderr


async def test_usage_has_a_sparkline_for_each_key_user_tool_and_caller(
    command: CommandLine, keys: tuple[Key, Key]
) -> None:
    """Those with the most calls first; the others are summed up."""
    bot, bobs = keys
    found = rows((await command("usage", "-w", "acme", "--since", "7d", "--step", "day")).stdout)
    assert [(row["hint"], row["description"], row["calls"], row["denied"]) for row in found] == [
        (bot.hint, "Slack Bot", "9", "0"),
        (bobs.hint, "Bob's", "2", "2"),
    ]
    assert found[0]["usage"] == "····█··▁"
    assert found[1]["usage"] == "·······█"
    by = {
        name: rows((await command("usage", "-w", "acme", "--by", name)).stdout) for name in ("user", "tool", "caller")
    }
    assert [(row["user"], row["calls"]) for row in by["user"]] == [("(no user)", "9"), ("bob", "2")]
    assert [row["tool"] for row in by["tool"]] == ["web.search", "(no tool)", "slack.post"]
    assert [(row["caller"], row["calls"]) for row in by["caller"]] == [("console", "8"), ("gateway", "3")]
    first, rest = rows((await command("usage", "-w", "acme", "--top", "1")).stdout)
    assert (first["calls"], rest["key"], rest["calls"]) == ("9", "(others)", "2")
    document = await command.json("usage", "-w", "acme", "--key", bot.id)
    assert [each["id"] for each in document["series"]] == [bot.id]


async def test_usage_is_drawn_as_a_chart(command: CommandLine, keys: tuple[Key, Key]) -> None:
    """In 80 columns where there is no terminal, with what was denied on top."""
    assert keys
    drawn = (await command("usage", "-w", "acme", "--chart", "--since", "7d", "--step", "day")).stdout.splitlines()
    assert len(drawn) == 14
    assert max(map(len, drawn)) <= 80
    assert drawn[0].startswith(" 8│") or drawn[0].startswith("8│")
    assert drawn[0].count("█") == 3
    assert "░" in "".join(drawn[:10])
    assert drawn[-1] == "9 granted, 2 denied, by day (UTC)"


async def test_a_key_is_shown_with_its_use(
    command: CommandLine, keys: tuple[Key, Key], sql: asyncpg.Connection[Any]
) -> None:
    """Of 30 days, and with its last source."""
    bot, _ = keys
    await sql.execute(
        "INSERT INTO key_use (key_id, last_minute, source_minute, source_ip) VALUES ($1, 1, 1, '198.51.100.7')",
        UUID(bot.id),
    )
    shown = dict(line.split("\t") for line in (await command("keys", "show", bot.id)).stdout.splitlines())
    assert shown["last source"] == "198.51.100.7"
    assert shown["30 days"] == f"{'·' * 27}█··▁ 9 calls, 0 of them denied"
    assert (await command.json("keys", "show", bot.id))["last_source_ip"] == "198.51.100.7"
