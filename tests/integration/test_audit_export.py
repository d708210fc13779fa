"""`skilder-keys audit export` and `audit prune`: what was exported may go, and the chain still verifies."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.app import audit_prune
from skilder_keys.app.event_streams import EventStreams, Sent
from skilder_keys.cli.audit_files import read
from skilder_keys.domain.audit_events import EventFilter, EventSelection
from skilder_keys.domain.errors import EventsPrunedError
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.paging import PageTokens
from skilder_keys.storage import audit_prune as audit_rows
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.storage.sessions import Connector
from tests.support.audit import add_event, as_owner, findings, head, two_workspaces
from tests.support.process import run_command

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    Sql = asyncpg.Connection[Any]

OLD = datetime(2026, 1, 1, tzinfo=UTC)
PRUNE = ("--before", "2026-02-01", "--signed-off-by", "Ada", "--yes", "--exported")


class Tool:
    """The command line, on a database and in a folder with one export."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.file = folder / "audit.jsonl"

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """Run a command of the group, which must end with a code."""
        done = run_command("audit", *arguments, folder=self.folder, SKILDER_KEYS_DATABASE_URL=self.url)
        assert done.returncode == code, done.stderr
        return done

    def export(self, *workspaces: str, code: int = 0) -> str:
        """Export, and return what it says."""
        return str(self("export", str(self.file), *workspaces, code=code).stderr)

    def prune(self, *workspaces: str, code: int = 0) -> str:
        """Prune, and return what it prints."""
        done = self("prune", *PRUNE, str(self.file), *workspaces, code=code)
        return str(done.stdout if code == 0 else done.stderr)


@pytest.fixture
def tool(database_url: str, tmp_path: Path) -> Tool:
    """The command line on the test's database."""
    return Tool(database_url, tmp_path)


async def old_events(sql: Sql) -> None:
    """Make `acme` with three old events and two new ones, and `globex` with new ones only."""
    await two_workspaces(sql)
    await as_owner(
        sql, "DELETE FROM audit_event WHERE workspace_id = 'acme'", "DELETE FROM audit_head WHERE workspace_id = 'acme'"
    )
    for at in (OLD, OLD + timedelta(days=2), OLD + timedelta(days=1)):
        await add_event(sql, at=at, details=json.dumps({"reason": "Grüße \\\n"}))
    for _ in range(2):
        await add_event(sql)


def hashes(file: Path) -> dict[str, list[str]]:
    """Return the hashes in an export by workspace, computed as any program in any language can."""
    found: dict[str, list[str]] = {}
    for line in file.read_text("utf-8").splitlines():
        fields = json.loads(line)
        said = json.loads(fields["content"])
        assert said["private"] == sha256(bytes.fromhex(fields["salt"]) + fields["private"].encode()).hexdigest()
        chain = found.setdefault(said["workspace_id"], [])
        assert said["number"] == len(chain) + 1
        before = bytes.fromhex(chain[-1]) if chain else bytes(32)
        assert sha256(before + fields["content"].encode()).hexdigest() == fields["hash"]
        chain.append(fields["hash"])
    return found


async def test_an_export_has_the_chain_and_can_be_resumed(sql: Sql, tool: Tool) -> None:
    """It is private, is checked by itself, and goes on where it ended, also in the middle of a line."""
    await two_workspaces(sql)
    assert tool.export("acme") == f"exported 5 events to {tool.file}\n"
    assert tool.file.stat().st_mode & 0o777 == 0o600
    assert tool.export() == f"exported 5 events to {tool.file}\n"
    await add_event(sql)
    whole = tool.file.read_bytes()
    tool.file.write_bytes(whole + b'{"content": "{\\"workspace_id\\":\\"acme\\",\\"num')
    assert tool.export() == f"exported 1 events to {tool.file}\n"
    assert tool.file.read_bytes().startswith(whole)
    assert tool.export() == f"exported 0 events to {tool.file}\n"
    found = hashes(tool.file)
    assert {each: chain[-1] for each, chain in found.items()} == {
        each: (await head(sql, each)).head.hash.hex() for each in ("acme", "globex")
    }
    private = json.loads(json.loads(tool.file.read_text("utf-8").splitlines()[0])["private"])
    assert private == {"actor": "ada", "peer": "ipv4:127.0.0.1:1", "details": {"version": 1}}


async def test_an_export_takes_no_broken_chain(sql: Sql, tool: Tool) -> None:
    """Neither one that was changed in the database, nor one that was changed in the file."""
    await two_workspaces(sql)
    await as_owner(sql, "UPDATE audit_event SET actor = 'bob' WHERE workspace_id = 'acme' AND number = 4")
    assert "event 4 of acme does not follow from event 3" in tool.export(code=5)
    tool.file.unlink()
    tool.export("globex")
    whole = tool.file.read_text("utf-8")
    for old, new, words in (
        ('\\"actor\\":\\"ada\\"', '\\"actor\\":\\"bob\\"', "line 1: the private text of event 1 of globex was changed"),
        ('\\"caller\\":\\"console\\"', '\\"caller\\":\\"other\\"', "line 1: event 1 of globex does not follow"),
        (whole.splitlines(keepends=True)[2], "", "line 3: event 4 of globex does not follow from event 2"),
        ('"hash"', '"harsh"', "line 1: it is no line of an export"),
    ):
        assert old in whole
        tool.file.write_text(whole.replace(old, new), "utf-8")
        assert words in tool.export("globex", code=5)
    tool.file.write_text(whole, "utf-8")
    tool.file.chmod(0o640)
    assert "chmod 600" in tool.export(code=2)
    tool.file.chmod(0o600)
    await as_owner(sql, "DELETE FROM audit_event WHERE workspace_id = 'globex'", "UPDATE audit_head SET number = 0")
    assert "the file has event 5 of globex, the database has not" in tool.export("globex", code=5)


async def test_a_pruned_chain_verifies(sql: Sql, tool: Tool) -> None:
    """Events go up to the first that is new enough, and one in the chain signs them off."""
    await old_events(sql)
    noted = await head(sql)
    tool.export()
    assert tool.prune() == "acme: 3 events removed, up to number 3\n"
    rows = await sql.fetch("SELECT number, action FROM audit_event WHERE workspace_id = 'acme' ORDER BY number")
    assert [row["number"] for row in rows] == [4, 5, 6]
    assert rows[-1]["action"] == "audit.pruned"
    details = json.loads(await sql.fetchval("SELECT details FROM audit_event WHERE action = 'audit.pruned'"))
    assert (details["through"], details["signed_off_by"]) == (3, "Ada")
    assert await findings(sql, expected=[noted]) == []
    assert tool.prune() == ""
    assert await sql.fetchval("SELECT count(*) FROM audit_event WHERE workspace_id = 'globex'") == 5
    assert tool.export() == f"exported 1 events to {tool.file}\n"
    assert len(hashes(tool.file)["acme"]) == 6
    for change, expected in (
        ("DELETE FROM audit_event WHERE workspace_id = 'acme' AND number = 4", [("acme", 4, "missing")]),
        ("DELETE FROM audit_event WHERE workspace_id = 'acme' AND number < 6", [("acme", 4, "missing")]),
        (
            "DELETE FROM audit_event WHERE workspace_id = 'acme'",
            [("acme", 1, "cut off")],
        ),
    ):
        await as_owner(sql, change)
        assert await findings(sql) == expected


async def test_only_what_was_exported_is_pruned(sql: Sql, tool: Tool) -> None:
    """An event that the file does not have stays, and so does one that it has in another form."""
    await old_events(sql)
    assert "No such file" in tool.prune(code=2)
    tool.export()
    lines = tool.file.read_text("utf-8").splitlines(keepends=True)
    tool.file.write_text("".join(lines[1:]), "utf-8")
    assert "the export does not have event 1 of acme" in tool.prune(code=5)
    tool.file.write_text("".join(lines), "utf-8")
    await as_owner(sql, "UPDATE audit_event SET actor = 'bob' WHERE workspace_id = 'acme' AND number = 2")
    assert "event 2 was changed, or event 1 and its hash in acme: run audit verify" in tool.prune(code=5)
    await as_owner(sql, "UPDATE audit_event SET actor = NULL WHERE workspace_id = 'acme' AND number = 2")
    tool.file.write_text("".join(lines[:2]), "utf-8")
    done = tool("prune", *PRUNE, str(tool.file), code=5)
    assert done.stdout == "acme: 2 events removed, up to number 2\n"
    assert "acme: event 3 is old enough, but not in the file" in done.stderr
    assert await sql.fetchval("SELECT min(number) FROM audit_event WHERE workspace_id = 'acme'") == 3
    assert await findings(sql) == []


async def test_a_prune_that_was_stopped_goes_on(sql: Sql, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain verifies in between, as the stub comes first; nothing but what was signed off can be removed."""
    await old_events(sql)
    tool.export()
    connection = await Connector(tool.url).connect("tests", 10)
    removing = audit_rows.remove
    calls = 0

    async def stop(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyboardInterrupt
        return int(await removing(*arguments))

    monkeypatch.setattr(audit_prune, "BATCH", 1)
    monkeypatch.setattr(audit_rows, "remove", stop)
    limit = datetime(2026, 2, 1, tzinfo=UTC)
    wanted = await audit_prune.candidates(connection, (), limit)
    assert wanted == {"acme": 3}
    exported = read(tool.file, wanted).exported
    with pytest.raises(KeyboardInterrupt):
        await audit_prune.prune(connection, "acme", exported, "Ada", limit)
    await connection.close()
    assert await sql.fetchval("SELECT min(number) FROM audit_event WHERE workspace_id = 'acme'") == 3
    assert await findings(sql) == []
    assert tool.prune() == "acme: 1 events removed, up to number 3\n"
    assert await findings(sql) == []


async def test_who_follows_hears_that_events_were_pruned(sql: Sql, tool: Tool, database_url: str) -> None:
    """If the next event for them is gone; the error has the number of the first that is left."""
    await old_events(sql)
    tool.export()
    database = await Database.open(DatabaseOptions(database_url))
    streams = EventStreams(database, PageTokens(b"k" * 32), time.monotonic, max_streams=10, seconds=60.0)
    selection = EventSelection(WorkspaceId("acme"), EventFilter())

    async def first_after(number: int | None, cursor: str | None = None) -> Sent:
        stream = await streams.follow(selection, cursor=cursor, after_number=number, actor=None)
        async with aclosing(stream):
            return await anext(stream)

    try:
        last = (await first_after(4)).cursor
        assert [each.number for each in (await first_after(2)).events] == [3, 4, 5]
        tool.prune()
        for number in (0, 2):
            with pytest.raises(EventsPrunedError) as refused:
                await first_after(number)
            assert refused.value.details == {"first_number": "4"}
        assert [each.number for each in (await first_after(3)).events] == [4, 5, 6]
        assert [each.number for each in (await first_after(None, last)).events] == [6]
    finally:
        await database.close()


async def test_a_workspace_without_events_is_refused(sql: Sql, tool: Tool) -> None:
    """A mistyped id must not look like a trail that was exported or pruned: nothing is written or removed."""
    await old_events(sql)
    words = "Error: there are no audit events of 'Acme', 'acne': is that the id of the workspace?\n"
    assert tool.export("acne", "acme", "Acme", code=4) == words
    assert not tool.file.exists()
    tool.export()
    assert tool.prune("acne", "acme", "Acme", code=4) == words
    assert len(await sql.fetch("SELECT FROM audit_event WHERE workspace_id = 'acme' AND at < '2026-02-01'")) == 3
