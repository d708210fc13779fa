"""Change single parts of a workspace: read a part, change some of its fields, and put it in place."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.cli import changes, output
from skilder_keys.cli.apply import Actor, warn_of_unserving
from skilder_keys.cli.changed import print_changes, print_summary
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.prompts import Yes, confirm
from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="The ids of what to remove.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of parts.

    Attributes:
        word: What people call it.
        list: The field of a workspace that has the parts.
        part: The kind in a PartRef.
        id: The field of a part that has its id.
        message: The class of a part.
    """

    word: str
    list: str
    part: pb.WorkspacePart.ValueType
    id: str
    message: type[Any]


MEMBER = Kind("member", "members", pb.WORKSPACE_PART_MEMBER, "user_id", workspace_pb2.Member)
TEAM = Kind("team", "teams", pb.WORKSPACE_PART_TEAM, "id", workspace_pb2.Team)
HAT = Kind("hat", "hats", pb.WORKSPACE_PART_HAT, "id", workspace_pb2.Hat)
SKILL = Kind("skill", "skills", pb.WORKSPACE_PART_SKILL, "id", workspace_pb2.Skill)
TOOL = Kind("tool", "tools", pb.WORKSPACE_PART_TOOL, "id", workspace_pb2.Tool)


@dataclass(frozen=True, slots=True)
class Change:
    """What a command changes in one part, and how.

    Attributes:
        kind: The kind of the part.
        id: Its id.
        is_new: Whether the part must not exist yet; otherwise it must.
        values: The new values of its fields; None keeps a value.
        added: What to add to lists, by field.
        removed: What to take out of lists, by field.
        dry_run: Whether to change nothing.
    """

    kind: Kind
    workspace_id: str
    id: str
    is_new: bool
    values: dict[str, Any]
    added: Mapping[str, Sequence[str] | None]
    removed: Mapping[str, Sequence[str] | None]
    actor: str
    dry_run: bool

    def changed(self, part: Any) -> Any:  # noqa: ANN401 - a message of the kind
        """Return a part with the changes."""
        after = self.kind.message()
        after.CopyFrom(part)
        setattr(after, self.kind.id, self.id)
        for name, value in self.values.items():
            if isinstance(value, list):
                getattr(after, name)[:] = value
            elif value is not None:
                setattr(after, name, value)
        for name, ids in self.removed.items():
            kept = [each for each in getattr(after, name) if each not in (ids or ())]
            getattr(after, name)[:] = kept
        for name, ids in self.added.items():
            getattr(after, name).extend(each for each in ids or () if each not in getattr(after, name))
        return after


def added(kind: Kind, workspace_id: str, id_: str, actor: str, *, dry_run: bool, **values: Any) -> Change:  # noqa: ANN401 - of each field's type
    """Return the change that adds a part, with the values of its fields."""
    return Change(kind, workspace_id, id_, True, values, {}, {}, actor, dry_run)  # noqa: FBT003 - it is new


def changed(
    kind: Kind,
    workspace_id: str,
    id_: str,
    actor: str,
    *,
    dry_run: bool,
    more: dict[str, list[str] | None] | None = None,
    less: dict[str, list[str] | None] | None = None,
    **values: Any,  # noqa: ANN401 - of each field's type
) -> Change:
    """Return the change of a part that exists. End the command if it changes nothing, or a list in two ways."""
    more, less = more or {}, less or {}
    if all(each is None for each in (*values.values(), *more.values(), *less.values())):
        raise fail("nothing to set: name at least one property, see --help", Exit.USAGE)
    for name in more:
        if values.get(name) is not None and (more[name] or less[name]):
            word = name.removesuffix("_ids")
            raise fail(f"--{word} names them all, so it does not go with --add-{word} and --remove-{word}", Exit.USAGE)
    return Change(kind, workspace_id, id_, False, values, more, less, actor, dry_run)  # noqa: FBT003 - it is there


def put(service: Connection, change: Change, *, json: bool) -> None:
    """Put a new or changed part in place, and print what changed.

    Nothing that somebody else changes meanwhile is lost: the change is made to what was read, or made again.
    """
    with service.stub(CatalogServiceStub) as stub:
        try:
            before, after, response = _put(stub, change)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            before, after, response = _put(stub, change)
    if change.kind is HAT and response.change_count:
        warn_of_unserving(changes.unserving_hats(after))
    _print(change.workspace_id, response, changes.details(before, after, response.changes), change.dry_run, json=json)


def _put(
    stub: Any,  # noqa: ANN401 - a generated stub
    change: Change,
) -> tuple[workspace_pb2.Workspace, workspace_pb2.Workspace, pb.UpdateWorkspaceResponse]:
    kind = change.kind
    mask = FieldMask(paths=[kind.list])
    found = stub.GetWorkspace(
        pb.GetWorkspaceRequest(workspace_id=change.workspace_id, read_mask=mask, actor=change.actor)
    )
    (part,) = [each for each in getattr(found.workspace, kind.list) if getattr(each, kind.id) == change.id] or [None]
    if change.is_new and part is not None:
        raise fail(f"there is a {kind.word} {quoted(change.id)} already: use `{kind.word} set`", Exit.CONFLICT)
    if not change.is_new and part is None:
        raise fail(f"there is no {kind.word} {quoted(change.id)}: use `{kind.word} add`", Exit.NOT_FOUND)
    before, after = workspace_pb2.Workspace(), workspace_pb2.Workspace()
    if part is not None:
        getattr(before, kind.list).append(part)
    getattr(after, kind.list).append(change.changed(part or kind.message()))
    request = pb.UpdateWorkspaceRequest(
        workspace_id=change.workspace_id,
        expected_version=found.version,
        put=pb.WorkspaceParts(**{kind.list: getattr(after, kind.list)}),
        dry_run=change.dry_run,
        actor=change.actor,
    )
    return before, after, stub.UpdateWorkspace(request)


def remove_command(kind: Kind, help_: str) -> Callable[..., None]:
    """Return the command that removes parts of a kind."""

    @connected
    def remove(
        service: Connection,
        workspace_id: WorkspaceId,
        id_: Ids,
        dry_run: DryRun = False,
        yes: Yes = False,
        actor: Actor = "",
        json: output.Json = False,
    ) -> None:
        ids = list(dict.fromkeys(id_))
        if not dry_run and not yes:
            _ask(kind, ids)
        request = pb.UpdateWorkspaceRequest(
            workspace_id=workspace_id,
            remove=[pb.PartRef(part=kind.part, id=each) for each in ids],
            dry_run=dry_run,
            actor=actor,
        )
        with service.stub(CatalogServiceStub) as stub:
            response = stub.UpdateWorkspace(request)
        _print(workspace_id, response, {}, dry_run, json=json)

    remove.__doc__ = help_
    return remove


def _ask(kind: Kind, ids: Sequence[str]) -> None:
    """Ask before something is removed. End the command if the answer is no, or if nobody can be asked."""
    several = len(ids) > 1
    question = f"This removes the {kind.word}{'s' if several else ''} {', '.join(map(quoted, ids))}."
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise fail(f"{question} There is no terminal to ask on: use --yes", Exit.USAGE)
    confirm(f"{question} Go on?", yes=False)


def _print(
    workspace_id: str,
    response: pb.UpdateWorkspaceResponse,
    details: dict[tuple[int, str], str],
    dry_run: bool,  # noqa: FBT001 - it is passed on
    *,
    json: bool,
) -> None:
    if json:
        output.print_json(output.as_dict(response))
        return
    if response.change_count:
        print_changes(response.changes, response.change_count, details)
    print_summary(workspace_id, response, dry_run=dry_run)
