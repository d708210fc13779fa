"""Find a key by what a person types for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.cli import output
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.paging import pages
from skilder_keys.domain.token import HINT_PATTERN, TOKEN_PATTERN

if TYPE_CHECKING:
    from skilder.keys.v1 import key_pb2

_SHORTEST = 4
_MAX_CANDIDATES = 10

KeyName = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The key's id. With --workspace also its hint, or the beginning of its id.",
        show_default=False,
    ),
]
WorkspaceOfKey = Annotated[
    str, typer.Option("--workspace", "-w", help="Find KEY in this workspace, by its hint or the beginning of its id.")
]


def find_key_id(stub: Any, given: str, workspace_id: str, actor: str) -> str:  # noqa: ANN401 - stubs have no types
    """Return the id of a key that is given by its id, its hint or the beginning of its id.

    End the command if no key matches, or more than one.
    """
    if TOKEN_PATTERN.search(given):
        raise fail("KEY is a token. Everybody on this machine can read arguments: use --token instead", Exit.USAGE)
    name = given.strip().rstrip("….")
    try:
        return str(UUID(name))
    except ValueError:
        pass
    if not workspace_id:
        raise fail(
            f"KEY {given!r} is not a key's id: to give its hint or the beginning of its id, set --workspace too",
            Exit.USAGE,
        )
    if len(name) < _SHORTEST:
        raise fail(f"KEY {given!r} is too short: give at least {_SHORTEST} characters", Exit.USAGE)
    found = _matching(stub, name, workspace_id, actor)
    if not found:
        raise fail(f"workspace {workspace_id} has no key with the id or hint {given!r}", Exit.NOT_FOUND)
    if len(found) == 1:
        return found[0].id
    say(f"These keys begin with {given!r}:")
    for key in found[:_MAX_CANDIDATES]:
        output.print_fields(output.key_fields(key), stderr=True)
        sys.stderr.write("\n")
    more = " and more" if len(found) > _MAX_CANDIDATES else ""
    raise fail(f"KEY {given!r} matches {min(len(found), _MAX_CANDIDATES)} keys{more}: give more of its id", Exit.USAGE)


def _matching(stub: Any, name: str, workspace_id: str, actor: str) -> list[key_pb2.Key]:  # noqa: ANN401 - the same
    """Return the keys of a workspace with a hint, or whose id begins so: a few more than are shown."""
    request = pb.ListKeysRequest(workspace_id=workspace_id, actor=actor)
    if HINT_PATTERN.fullmatch(name):
        request.filter.hint = name
    found: list[key_pb2.Key] = []
    for page in pages(stub.ListKeys, request, "keys"):
        found += [key for key in page if key.hint == name or key.id.startswith(name.lower())]
        if len(found) > _MAX_CANDIDATES:
            break
    return found
