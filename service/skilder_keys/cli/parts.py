"""Put single parts of a workspace in place, and remove them."""

from __future__ import annotations

import random
import sys
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.part_changes import HAT
from skilder_keys.cli.prompts import Yes, confirm
from skilder_keys.cli.text import visible
from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skilder_keys.cli.part_changes import Change, Kind

Made = TypeVar("Made")

_PATIENCE = 15.0
_LONGEST_PAUSE = 0.1

WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="The ids of what to remove.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


def put(service: Connection, change: Change, *, json: bool, patience: float = _PATIENCE) -> None:
    """Put a new or changed part in place, and print what changed.

    Nothing that somebody else changes meanwhile is lost: the change is made to what was read. If that was not the last
    version, the part is read again, and the change is made again, for at most `patience` seconds.
    """
    with service.stub(CatalogServiceStub) as stub:
        before, after, response = until_made(lambda: _put(stub, change), change.workspace_id, patience)
    _warn_of_missing(change, before)
    if change.kind is HAT and response.change_count:
        warn_of_unserving(changes.unserving_hats(after), "Set --team or --add-team, or --audience workspace.")
    print_response(
        change.workspace_id, response, changes.details(before, after, response.changes), change.dry_run, json=json
    )


def until_made(attempt: Callable[[], Made], workspace_id: str, patience: float = _PATIENCE) -> Made:
    """Return the result of an attempt. Repeat it while somebody else has changed the workspace meanwhile."""
    end = monotonic() + patience
    while True:
        try:
            return attempt()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
        if monotonic() > end:
            raise fail(
                f"others change the workspace {workspace_id} all the time, and nothing was done: try again",
                Exit.CONFLICT,
            )
        sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - no secret


def _warn_of_missing(change: Change, before: workspace_pb2.Workspace) -> None:
    """Report ids that were to be taken out of a list that does not have them."""
    for part in getattr(before, change.kind.list):
        for name, each in change.lists.items():
            for id_ in each.less or ():
                if id_ not in getattr(part, name):
                    words = f"Warning: the {change.kind.word} {quoted(change.id)} has no {each.word} {quoted(id_)}."
                    say(visible(words, sys.stderr))


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
        raise fail(
            f"there is no {kind.word} {quoted(change.id)}: `workspace show {change.workspace_id} --only {kind.list}` "
            f"shows those there are, and `{kind.word} add` adds one",
            Exit.NOT_FOUND,
        )
    _refuse_teams_of_wide_hat(change, part)
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


def _refuse_teams_of_wide_hat(change: Change, part: Any) -> None:  # noqa: ANN401 - a message of the kind
    """End the command if it gives teams to a hat that serves the whole workspace, and does not say which is meant."""
    teams = change.lists.get("team_ids")
    if (
        change.kind is HAT
        and part is not None
        and part.audience == workspace_pb2.HAT_AUDIENCE_WORKSPACE
        and change.values.get("audience") is None
        and teams is not None
        and (teams.only or teams.more)
    ):
        raise fail(
            f"the hat {quoted(change.id)} serves the whole workspace: "
            "set --audience teams too if it is to serve only these teams",
            Exit.USAGE,
        )


def remove_command(kind: Kind, help_: str, consequence: str = "") -> Callable[..., None]:
    """Return the command that removes parts of a kind.

    Args:
        kind: The kind.
        help_: The help of the command.
        consequence: A sentence on what follows, for the question.
    """

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
        if flags := {"--actor", "--dry-run", "--json", "--yes", "-y"}.intersection(ids):
            raise fail(f"{min(flags)} comes after `--`, where everything is an id: put it before", Exit.USAGE)
        request = pb.UpdateWorkspaceRequest(
            workspace_id=workspace_id,
            remove=[pb.PartRef(part=kind.part, id=each) for each in ids],
            dry_run=True,
            actor=actor,
        )
        with service.stub(CatalogServiceStub) as stub:
            response = stub.UpdateWorkspace(request)
            there = dict.fromkeys(each.id for each in response.changes)
            is_cut = response.change_count > len(response.changes)  # very many changes are not all named
            for each in ids:
                if each not in there and not is_cut:
                    say(visible(f"Warning: there is no {kind.word} {quoted(each)}.", sys.stderr))
            if there and not dry_run:
                if not yes:
                    _ask(workspace_id, kind, list(there), consequence)
                request.dry_run = False
                response = stub.UpdateWorkspace(request)
        print_response(workspace_id, response, {}, dry_run, json=json)

    remove.__doc__ = help_
    return remove


def _ask(workspace_id: str, kind: Kind, ids: Sequence[str], consequence: str) -> None:
    """Ask before something is removed. End the command if the answer is no, or if nobody can be asked."""
    several = len(ids) > 1
    listed = ", ".join(f"'{each}'" for each in ids)
    what = f"the {kind.word}{'s' if several else ''} {listed}"
    question = " ".join(f"This removes {what} from the workspace {workspace_id}. {consequence}".split())
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise fail(visible(f"{question} There is no terminal to ask on: use --yes", sys.stderr), Exit.USAGE)
    confirm(f"{question} Go on?", yes=False)


def print_response(
    workspace_id: str,
    response: pb.UpdateWorkspaceResponse,
    details: dict[tuple[int, str], str],
    dry_run: bool,  # noqa: FBT001 - it is passed on
    *,
    json: bool,
) -> None:
    """Print what an update has changed, or would change."""
    if json:
        output.print_json(output.as_dict(response))
        return
    if response.change_count:
        print_changes(response.changes, response.change_count, details)
    print_summary(workspace_id, response, dry_run=dry_run)
