"""skilder-keys audit verify: the command that reads the audit trail in the database itself."""

from __future__ import annotations

from typing import Annotated

import typer

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.options import takes_settings
from skilder_keys.cli.output import Json
from skilder_keys.config import Settings
from skilder_keys.domain.audit_check import ExpectedHead


@takes_settings("database_url", "database_schema")
def verify(
    settings: Settings,
    workspace_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKSPACE]...", help="Check these workspaces [default: all].")
    ] = None,
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
