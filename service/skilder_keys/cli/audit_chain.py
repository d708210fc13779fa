"""skilder-keys audit verify, export and prune: the commands that read the audit trail in the database itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.key_filters import past
from skilder_keys.cli.options import takes_settings
from skilder_keys.cli.output import Json
from skilder_keys.cli.prompts import Yes, confirm
from skilder_keys.config import Settings
from skilder_keys.domain.audit_check import ExpectedHead

Workspaces = Annotated[
    list[str] | None, typer.Argument(metavar="[WORKSPACE]...", help="Only these workspaces [default: all].")
]
ExportFile = Annotated[Path, typer.Argument(help="The file, which is made, or appended to.")]


@takes_settings("database_url", "database_schema")
def verify(
    settings: Settings,
    workspace_ids: Workspaces = None,
    expect_head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORKSPACE:NUMBER:HASH",
            help="Require this event, a head that was noted before, as from a log line; repeat it for several.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check that no audit event was changed, removed or put in afterwards, and say where.

    It reads the database of SKILDER_KEYS_DATABASE_URL, and needs SELECT on audit_event and audit_head. Each line of the
    output is the head of a workspace: note it outside of the database, for the next --expect-head.
    """
    expected = [_head(each) for each in expect_head or ()]
    from skilder_keys.cli import audit_database  # noqa: PLC0415 - slow to load, and of no use to the help

    audit_database.verify(database_url(settings), settings.database_schema, workspace_ids or (), expected, json=json)


@takes_settings("database_url", "database_schema")
def export(settings: Settings, file: ExportFile, workspace_ids: Workspaces = None) -> None:
    """Write the audit trail to a file, as JSON Lines with the chain. Repeat it to append what is new.

    The file can be read by its owner only. It reads the database of SKILDER_KEYS_DATABASE_URL.
    """
    from skilder_keys.cli import audit_database  # noqa: PLC0415 - as above

    audit_database.export(database_url(settings), settings.database_schema, file, workspace_ids or ())


@takes_settings("database_url", "database_schema")
def prune(
    settings: Settings,
    before: Annotated[
        str, typer.Option(help="Remove events from before this time: a date, a date and time, or an age such as 400d.")
    ],
    exported: Annotated[Path, typer.Option(help="The file of `audit export`, which must have every one of them.")],
    signed_off_by: Annotated[str, typer.Option(help="Who answers for it, to be written into the audit trail.")],
    workspace_ids: Workspaces = None,
    yes: Yes = False,
) -> None:
    """Remove audit events that were exported. An event in the chain signs them off, so the rest still verifies.

    It needs the owner of the tables in SKILDER_KEYS_DATABASE_URL.
    """
    url, limit = database_url(settings), past(before)
    confirm(f"Every audit event from before {limit:%Y-%m-%d %H:%M} UTC is removed from the database. Go on?", yes=yes)
    from skilder_keys.cli import audit_database  # noqa: PLC0415 - as above

    audit_database.prune(url, settings.database_schema, exported, limit, signed_off_by, workspace_ids or ())


def database_url(settings: Settings) -> str:
    """Return the URL of the database, which must be given."""
    if settings.database_url is None:
        raise fail("set SKILDER_KEYS_DATABASE_URL: the audit trail is read in the database itself", Exit.USAGE)
    return settings.database_url.get_secret_value()


def _head(text: str) -> ExpectedHead:
    try:
        return ExpectedHead.parse(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is not WORKSPACE:NUMBER:HASH", param_hint="--expect-head") from None
