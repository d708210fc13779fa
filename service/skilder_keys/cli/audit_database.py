"""What the commands do that read the audit trail in the database. Loading it takes long, so they do when they run."""

from __future__ import annotations

import asyncio
import json as json_
from typing import TYPE_CHECKING

from skilder_keys.app.audit_check import check
from skilder_keys.cli import output
from skilder_keys.cli.exits import Exit, fail, reason, say
from skilder_keys.domain.audit_check import ExpectedHead
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.storage.tool_sessions import snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.audit_check import ChainCheck


def verify(
    url: str, schema: str, workspace_ids: Sequence[str], expected: Sequence[ExpectedHead], *, json: bool
) -> None:
    """Check the audit trail, and print the head of each workspace and what is wrong."""
    try:
        events, workspaces, faults = asyncio.run(_verify(url, schema, workspace_ids, expected, json=json))
    except SchemaOutdatedError as error:
        raise fail(str(error), Exit.FAILED) from None
    except UnavailableError as error:
        raise fail(f"cannot read the database: {reason(error.__cause__ or error)}", Exit.UNAVAILABLE) from None
    summary = f"{events} events of {workspaces} workspaces"
    if faults:
        raise fail(f"the audit trail is broken in {faults} places: {summary}", Exit.CONFLICT)
    say(f"sound: {summary}")


async def _verify(
    url: str, schema: str, workspace_ids: Sequence[str], expected: Sequence[ExpectedHead], *, json: bool
) -> tuple[int, int, int]:
    events = workspaces = faults = 0
    async with snapshot(url, schema, "skilder-keys audit") as connection:
        async for each in check(connection, workspace_ids, expected):
            events += each.count
            workspaces += 1
            faults += len(each.findings)
            (_print_json if json else _print_text)(each)
    return events, workspaces, faults


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
