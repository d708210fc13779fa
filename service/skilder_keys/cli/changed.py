"""Print what changed in a workspace, or would change."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from skilder_keys.cli import changes, output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skilder.keys.v1 import catalog_service_pb2 as pb

    Response = pb.ApplyWorkspaceResponse | pb.UpdateWorkspaceResponse

SHOWN = 20
"""The most changes that are shown."""


def print_changes(found: Sequence[pb.WorkspaceChange], count: int, details: Mapping[tuple[int, str], str]) -> None:
    """Print changes as a table, and how many there are if these are not all.

    Args:
        found: The changes, or some of them.
        count: How many there are.
        details: The changes of fields, by kind and id.
    """
    shown = list(islice(changes.rows(found, details), SHOWN))
    width = len(changes.COLUMNS) if any(row[-1] for row in shown) else -1
    output.print_table(changes.COLUMNS[:width], [row[:width] for row in shown])
    if count > SHOWN:
        output.print_line(output.shown(in_all(found, count)))


def in_all(found: Sequence[pb.WorkspaceChange], count: int) -> str:
    """Return how many changes there are. `found` may be a part of them, as the service names at most 10,000."""
    more = f"… and {count - SHOWN} more. " if count > SHOWN else ""
    known = changes.counted(found)
    return f"{more}In all: {known}." if count == len(found) else f"{more}In all: {count} changes, among them {known}."


def print_summary(workspace_id: str, response: Response, *, dry_run: bool) -> None:
    """Print the version of the workspace and the number of changes."""
    number = response.change_count
    changed = f"{number} change{'s' if number > 1 else ''}" if number else "nothing differed"
    if dry_run:
        text = f"Nothing was written. Workspace {workspace_id} would be at version {response.version}: {changed}."
    else:
        text = f"Workspace {workspace_id} is at version {response.version}: {changed}."
    output.print_line(output.shown(text))
