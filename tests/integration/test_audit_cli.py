"""`skilder-keys audit verify` against a database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.audit import as_owner, head, two_workspaces
from tests.support.process import run_command

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    Sql = asyncpg.Connection[Any]


async def test_verify_prints_heads_and_what_is_wrong(sql: Sql, database_url: str, tmp_path: Path) -> None:
    """For people and as JSON; the exit code says whether the trail is sound."""

    def verify(*arguments: str) -> Any:
        return run_command("audit", "verify", *arguments, folder=tmp_path, SKILDER_KEYS_DATABASE_URL=database_url)

    await two_workspaces(sql)
    acme, globex = [str(await head(sql, each)) for each in ("acme", "globex")]
    done = verify()
    assert (done.returncode, done.stdout) == (0, f"{acme}\n{globex}\n")
    assert done.stderr == "sound: 10 events of 2 workspaces\n"
    assert verify("globex", "--expect-head", acme).stdout == f"{acme}\n{globex}\n"
    assert verify("globex").stdout == f"{globex}\n"
    done = verify("nope")
    words = "Error: there are no audit events of 'nope': is that the id of the workspace?"
    assert (done.returncode, done.stdout, done.stderr) == (4, "", f"{words}\n")
    done = verify("nope", "globex")
    assert (done.returncode, done.stdout) == (4, f"{globex}\n")
    assert done.stderr == f"{words} The others are sound: 5 events of 1 workspaces\n"
    done = verify("nope", "--expect-head", acme.replace("acme:5", "none:5"))
    assert (done.returncode, "cut off" in done.stdout) == (5, True)
    await as_owner(sql, "UPDATE audit_event SET actor = 'bob' WHERE workspace_id = 'acme' AND number = 3")
    done = verify()
    assert done.returncode == 5
    words = "event 3 was changed, or event 2 and its hash"
    assert done.stdout == f"{acme}\n  edited: {words}\n{globex}\n"
    assert done.stderr == "Error: the audit trail is broken in 1 places: 10 events of 2 workspaces\n"
    finding = {"number": 3, "fault": "edited", "words": words}
    documents = [json.loads(line) for line in verify("--json").stdout.splitlines()]
    assert [each["findings"] for each in documents] == [[finding], []]
    done = verify("acme", "--expect-head", acme.replace(":5:", ":7:"))
    assert (done.returncode, "cut off: events 6 to 7 are missing at the end" in done.stdout) == (5, True)
    assert verify("--expect-head", "acme:5").returncode == 2
    assert run_command("audit", "verify", folder=tmp_path).returncode == 2


async def test_what_is_typed_is_text_and_cannot_control_the_terminal(
    sql: Sql, database_url: str, tmp_path: Path
) -> None:
    """An argument in another encoding is named, and a file's name is escaped."""
    await two_workspaces(sql)

    def audit(*arguments: str) -> Any:
        return run_command("audit", *arguments, folder=tmp_path, SKILDER_KEYS_DATABASE_URL=database_url)

    prune = ("prune", "--before", "1d", "--exported", "x", "--yes", "--signed-off-by")
    for arguments, name in ((("verify", "\udcff"), "[WORKSPACE]..."), ((*prune, "\udcff"), "--signed-off-by")):
        done = audit(*arguments)
        message = f"Error: {name} is not text in this terminal's encoding: '\\udcff'\n"
        assert (done.returncode, done.stderr) == (2, message)
    done = audit("export", "監査\x1b[31m.jsonl")
    assert (done.returncode, done.stderr) == (0, "exported 10 events to 監査\\x1b[31m.jsonl\n")
