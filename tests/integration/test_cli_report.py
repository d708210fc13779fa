"""`report`: what it finds, that its commands mend it, and that its pages are whole in each form."""

from __future__ import annotations

import shlex
import time
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1.authorization_service_pb2 import DENIAL_REASON_TOOL_NOT_ALLOWED
from tests.support.activity_facts import Fact, insert_facts
from tests.support.command_line import CommandLine
from tests.support.rows import insert_key
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.support.service import Service

pytestmark = ONLY_GRPCIO

FOUND = {
    "Never used": 1,
    "Idle for 90 days": 1,
    "Expires within 14 days": 1,
    "Without an expiry": 1,
    "Used from several addresses in 7 days": 1,
    "Denied in 30 days": 1,
    "Tools that nobody used in 90 days": 3,
    "Keys that reach more than they use": 1,
}
"""How many findings of each section there are."""
NASTY = "-<b>`Bot`</b> | $(reboot) *x* 'y'"


@pytest.fixture
async def command(service: Service, sql: asyncpg.Connection[Any], tmp_path: Path) -> CommandLine:
    """The command line of a workspace with something to find in each section."""
    bot = (await service.operator.issue(description=NASTY)).key
    await service.operator.issue(description="Short", lifetime=Duration(seconds=3 * 86_400))
    now = datetime.now(UTC)
    await insert_key(sql, description="Forgotten", created_at=now - timedelta(days=100))
    used_at = now - timedelta(days=95)
    await insert_key(sql, description="Idle", created_at=now - timedelta(days=200), last_used_at=used_at)
    minute, key_id = int(time.time()) // 60, UUID(bot.id)
    await insert_facts(
        sql,
        [
            Fact(minute, key_id, "slack.post", count=40, source="192.0.2.1"),
            Fact(minute - 1, key_id, "slack.post", count=2, source="198.51.100.2"),
            Fact(minute, key_id, "git.push", outcome=DENIAL_REASON_TOOL_NOT_ALLOWED, count=3),
        ],
    )
    return CommandLine(service, tmp_path)


async def lines_of(command: CommandLine, *options: str) -> list[str]:
    """Return the lines of a report."""
    done = await command("report", "--workspace", "acme", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout).splitlines()


def counts_of(lines: list[str]) -> dict[str, int]:
    """Return the number of findings in each section of a report for a terminal."""
    pairs = [line.split(": ") for line in lines if line.partition(": ")[0] in FOUND]
    return {title: 0 if count == "none" else int(count) for title, count in pairs}


async def test_what_a_report_finds_is_mended_by_its_commands(command: CommandLine) -> None:
    """Each command works as it stands, but for the question before a revocation; then its finding is gone."""
    lines = await lines_of(command)
    assert counts_of(lines) == FOUND
    assert "42 calls granted and 3 denied in 30 days." in lines
    assert max(len(line) for line in lines if "skilder-keys" not in line) <= 80
    commands = [shlex.split(line) for line in lines if line.startswith("    skilder-keys ")]
    assert len(commands) == sum(FOUND.values())
    for program, *arguments in commands:
        assert program == "skilder-keys"
        done = await command(*arguments, *(["--yes"] if arguments[1] == "revoke" else []))
        assert done.returncode == 0, (arguments, done.stderr)
    left = counts_of(await lines_of(command))
    mended = {title for title in FOUND if not left[title]}
    # The successor of a short-lived key lives as short; what was counted stays; and another key was issued.
    assert mended == FOUND.keys() - {
        "Expires within 14 days",
        "Without an expiry",
        "Used from several addresses in 7 days",
        "Denied in 30 days",
    }
    assert left["Without an expiry"] == 1


class Tags(HTMLParser):
    """Checks that each element of a document is closed, and collects its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element, which must refer to nothing elsewhere."""
        assert not {name for name, _ in attrs} & {"src", "href", "onload"}
        self.seen.add(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data


async def test_a_report_is_a_whole_page_of_html(command: CommandLine) -> None:
    """With plots, without scripts, and with texts of people as texts."""
    tags = Tags()
    tags.feed("\n".join(await lines_of(command, "--format", "html")))
    assert tags.open == []
    assert {"html", "svg", "rect", "code"} <= tags.seen
    assert tags.seen.isdisjoint({"b", "script", "link", "img"})
    assert NASTY in tags.text
    assert all(f"{title}: {count}" in tags.text for title, count in FOUND.items())


async def test_a_report_is_written_as_markdown(command: CommandLine) -> None:
    """With texts of people as texts."""
    lines = await lines_of(command, "--format", "markdown")
    assert lines[0] == "# Keys of acme"
    assert [line for line in lines if line.startswith("## ")] == [
        f"## {title}: {count}" for title, count in FOUND.items()
    ]
    page = "\n".join(line for line in lines if not line.startswith("  ``"))  # without the commands, which are code
    assert "<b>" not in page
    assert r"-&lt;b&gt;\`Bot\`&lt;/b&gt; \| $(reboot) \*x\* 'y'" in page
