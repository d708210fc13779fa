"""What the commands do that read the audit trail in the database. Loading it takes long, so they do when they run."""

from __future__ import annotations

import asyncio
import json as json_
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from skilder_keys.app import audit_prune
from skilder_keys.app.audit_check import check
from skilder_keys.app.audit_prune import NotExportedError
from skilder_keys.cli import audit_files, output
from skilder_keys.cli.exits import Exit, fail, reason, say
from skilder_keys.cli.text import visible
from skilder_keys.domain.audit_check import NO_EVENT, ExpectedHead
from skilder_keys.domain.audit_export import Exported, ExportError, line_of, older_line_of
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import audit_chain
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.storage.tool_sessions import session, snapshot

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime
    from pathlib import Path

    from skilder_keys.domain.audit_check import ChainCheck

Result = TypeVar("Result")

_NAME = "skilder-keys audit"


def verify(
    url: str, schema: str, workspace_ids: Sequence[str], expected: Sequence[ExpectedHead], *, json: bool
) -> None:
    """Check the audit trail, and print the head of each workspace and what is wrong."""
    events, workspaces, faults, unknown = _run(_verify(url, schema, workspace_ids, expected, json=json))
    summary = f"{events} events of {workspaces} workspaces"
    if faults:
        raise fail(f"the audit trail is broken in {faults} places: {summary}", Exit.CONFLICT)
    if unknown:
        words = _without_events(unknown)
        raise fail(f"{words} The others are sound: {summary}" if workspaces else words, Exit.NOT_FOUND)
    say(f"sound: {summary}")


def export(url: str, schema: str, file: Path, workspace_ids: Sequence[str]) -> None:
    """Append to a file what it does not have of the audit trail."""
    events = _run(_export(url, schema, file, workspace_ids))
    say(visible(f"exported {events} events to {file}", sys.stderr))


def prune(
    url: str, schema: str, exported: Path, before: datetime, signed_off_by: str, workspace_ids: Sequence[str]
) -> None:
    """Remove the audit events from before a time that a file has, and print how far each workspace was pruned."""
    _run(_prune(url, schema, exported, before, signed_off_by, workspace_ids))


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except SchemaOutdatedError as error:
        raise fail(str(error), Exit.FAILED) from None
    except (ExportError, NotExportedError) as error:
        raise fail(str(error), Exit.CONFLICT) from None
    except UnavailableError as error:
        raise fail(f"cannot use the database: {reason(error.__cause__ or error)}", Exit.UNAVAILABLE) from None


async def _export(url: str, schema: str, path: Path, workspace_ids: Sequence[str]) -> int:
    count = 0
    async with snapshot(url, schema, _NAME) as connection:
        heads = await audit_chain.heads(connection)
        _require_events(workspace_ids, heads.keys())
        with audit_files.appended(path) as (file, reader):
            for workspace_id in workspace_ids or heads:
                known = reader.exported.get(workspace_id, Exported())
                if known.head.number > (heads.get(workspace_id) or NO_EVENT).number:
                    raise ExportError(f"the file has event {known.head.number} of {workspace_id}, the database has not")
                skipped = known.older.number
                async for older in audit_chain.older(connection, workspace_id):
                    file.write("".join(map(older_line_of, older[skipped:])).encode())
                    count += len(older[skipped:])
                    skipped = max(0, skipped - len(older))
                async for events in audit_chain.chained(connection, workspace_id, known.head.number):
                    for event in events:
                        reader.after(event)
                    file.write("".join(map(line_of, events)).encode())
                    count += len(events)
    return count


async def _prune(
    url: str, schema: str, path: Path, before: datetime, signed_off_by: str, workspace_ids: Sequence[str]
) -> None:
    async with session(url, schema, _NAME) as connection:
        if workspace_ids:
            _require_events(workspace_ids, (await audit_chain.heads(connection)).keys())
        wanted = await audit_prune.candidates(connection, workspace_ids, before)
        exported = audit_files.read(path, wanted).exported
        for workspace_id in wanted:
            done = await audit_prune.prune(connection, workspace_id, exported, signed_off_by, before)
            if done.removed:
                words = f"{workspace_id}: {done.removed} events removed, up to number {done.through}"
                output.print_line(output.shown(words))
        late = {each: exported.get(each, Exported()).wanted.number for each in wanted}
        if left := [f"{each}: event {late[each] + 1}" for each in wanted if late[each] < wanted[each]]:
            raise NotExportedError(f"{left[0]} is old enough, but not in the file: export first")


async def _verify(
    url: str, schema: str, workspace_ids: Sequence[str], expected: Sequence[ExpectedHead], *, json: bool
) -> tuple[int, int, int, list[str]]:
    events = workspaces = faults = 0
    async with snapshot(url, schema, _NAME) as connection:
        heads = await audit_chain.heads(connection)
        noted = {each.workspace_id for each in expected}
        unknown = sorted(set(workspace_ids) - heads.keys() - noted)
        known = [each for each in workspace_ids if each not in unknown]
        if unknown and not (known or noted):
            return 0, 0, 0, unknown
        async for each in check(connection, known or sorted(noted) if workspace_ids else (), expected):
            events += each.count
            workspaces += 1
            faults += len(each.findings)
            (_print_json if json else _print_text)(each)
    return events, workspaces, faults, unknown


def _require_events(workspace_ids: Sequence[str], known: AbstractSet[str]) -> None:
    """Fail before anything is done if there has never been an event of one of the workspaces."""
    if unknown := sorted(set(workspace_ids) - known):
        raise fail(_without_events(unknown), Exit.NOT_FOUND)


def _without_events(workspace_ids: Sequence[str]) -> str:
    return f"there are no audit events of {', '.join(map(repr, workspace_ids))}: is that the id of the workspace?"


def _print_text(each: ChainCheck) -> None:
    output.print_line(output.shown(str(ExpectedHead(each.workspace_id, each.head))))
    for found in each.findings:
        output.print_line(output.shown(f"  {found.fault.value}: {found.words}"))


def _print_json(each: ChainCheck) -> None:
    findings = [{"number": found.number, "fault": found.fault.value, "words": found.words} for found in each.findings]
    document = {
        "workspace_id": each.workspace_id,
        "events": each.count,
        "number": each.head.number,
        "hash": each.head.hash.hex(),
        "findings": findings,
    }
    output.print_line(json_.dumps(document))
