"""skilder-keys scan."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.prompts import Yes, confirm, require_terminal
from skilder_keys.cli.scan.contents import STANDARD_INPUT, Found, Scan
from skilder_keys.cli.scan.revocations import Outcome, revoke
from skilder_keys.cli.secrets import redacted
from skilder_keys.cli.table import Column
from skilder_keys.cli.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.domain.token import Token

_COLUMNS = (
    "file",
    Column("line", whole=True),
    Column("hint", whole=True),
    Column("key", whole=True, drop=2),
    Column("commit", whole=True, drop=1),
)


@connected
def scan(
    service: Connection,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files and folders; - for standard input.", show_default=False),
    ],
    history: Annotated[bool, typer.Option("--history", help="Scan the whole Git history of each folder, too.")] = False,
    no_ignore: Annotated[bool, typer.Option("--no-ignore", help="Scan also what .gitignore files name.")] = False,
    revoke_keys: Annotated[
        bool, typer.Option("--revoke", help="Revoke the keys whose tokens were found. Ask first.")
    ] = False,
    yes: Yes = False,
    json: output.Json = False,
) -> None:
    """Find tokens in files, by their checksum, and print where they are: never the tokens themselves.

    Nothing is sent to the service, except with --revoke. Exit code 0 means that there is no token, 1 that there are.
    """
    _check(paths, history=history)
    if revoke_keys:
        require_terminal(yes=yes)
    problems: list[str] = []
    scanning = Scan(problems.append, ignored_too=no_ignore)
    found = list(_found(scanning, paths, history=history))
    if not json:
        output.print_table(_COLUMNS, map(_row, found))
    outcomes = {each.token: each for each in _revoked(service, found, yes=yes)} if revoke_keys and found else {}
    if json:
        output.print_json({"found": [_as_dict(each, outcomes.get(each.token)) for each in found], "problems": problems})
    for each in problems:
        say(f"Not scanned: {redacted(visible(each, sys.stderr))}")
    say(_summary(scanning, found))
    if problems:
        raise typer.Exit(Exit.FAILED)
    if found:
        raise typer.Exit(Exit.DENIED)


def _check(paths: list[str], *, history: bool) -> None:
    for each in paths:
        if each == STANDARD_INPUT:
            if history:
                raise fail("--history needs the folder of a Git repository; standard input has none", Exit.USAGE)
        elif not os.path.lexists(each):
            raise fail(f"PATH {each!r} does not exist", Exit.USAGE)
        elif history and not os.path.isdir(each):  # noqa: PTH112 - a text, not a path
            raise fail(f"--history needs the folder of a Git repository, and {each!r} is a file", Exit.USAGE)


def _found(scanning: Scan, paths: list[str], *, history: bool) -> Iterator[Found]:
    for each in paths:
        yield from scanning.path(each)
        if history:
            yield from scanning.history(each)


def _row(found: Found) -> tuple[str, ...]:
    token = found.token
    return (
        redacted(found.file) or "-",
        str(found.line) if found.line else "its name",
        token.hint,
        str(token.key_id),
        found.commit or "-",
    )


def _as_dict(found: Found, outcome: Outcome | None) -> dict[str, Any]:
    token = found.token
    fields: dict[str, Any] = {"file": redacted(found.file), "line": found.line}
    if found.commit:
        fields["commit"] = found.commit
    fields |= {"type": token.type.value, "hint": token.hint, "key_id": str(token.key_id)}
    if outcome is not None:
        fields["outcome"] = _outcome(outcome)
    return fields


def _revoked(service: Connection, found: list[Found], *, yes: bool) -> Iterator[Outcome]:
    """Ask, revoke the keys of the tokens, and report each."""
    reasons: dict[Token, str] = {}
    for each in found:
        file = visible(redacted(each.file), sys.stderr) or "a message"
        place = f"{file}, line {each.line}" if each.line else f"the name of {file}"
        reasons.setdefault(each.token, f"{place}, commit {each.commit}" if each.commit else place)
    which = "the key of this token" if len(reasons) == 1 else f"the keys of these {len(reasons):,} tokens"
    confirm(f"Everything that uses {which} stops working at once. This cannot be undone. Go on?", yes=yes)
    for outcome in revoke(service, reasons):
        yield outcome
        say(f"{outcome.token.hint}: {_outcome(outcome)}")


def _outcome(outcome: Outcome) -> str:
    if outcome.key is None:
        return "the service has no key with this token"
    if outcome.before:
        return f"was revoked before, at {output.moment(outcome.key.revoked_at)}"
    return "revoked"


def _summary(scanning: Scan, found: list[Found]) -> str:
    scanned = f"Scanned {_number(scanning.files, 'file')}"
    if scanning.versions:
        scanned += f" and {_number(scanning.versions, 'version')} of the history"
    tokens = len({each.token for each in found})
    return (
        f"{scanned}: {_number(tokens, 'token')} in {_number(len(found), 'place')}."
        if found
        else f"{scanned}: no token."
    )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)
