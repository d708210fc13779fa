"""skilder-keys workspace apply: show what will change, and ask before anything is removed."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.cli import changes, output
from skilder_keys.cli.changed import SHOWN, in_all, print_changes, print_summary
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.durations import shortest
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.prompts import Yes, confirm
from skilder_keys.cli.text import visible
from skilder_keys.cli.workspace_file import read_workspace
from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from skilder.keys.v1 import workspace_pb2

_NAMED = 5
_SERVING = "Write `team_ids: […]` to serve teams, or `audience: workspace` to serve the whole workspace."

Actor = Annotated[str, typer.Option(help="Act for this user, by their id, who must be an admin of the workspace.")]
ExpectedVersion = Annotated[
    int | None,
    typer.Option(min=0, help="Only if the workspace has this version now; 0: only if it does not exist yet."),
]


@connected
def apply(
    service: Connection,
    file: Annotated[Path, typer.Argument(help="The desired state, YAML or JSON; - for standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    max_removals: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="The most members, teams, hats, skills and tools to remove together [default: half of all].",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    expected_version: ExpectedVersion = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change a workspace to exactly what a file says. Ask before anything is removed.

    The file may be the output of `show` or `show --json`. If the file has an error, nothing changes. Warn about hats
    that serve nobody.
    """
    workspace = read_workspace(file)
    warn_of_unserving(changes.unserving_hats(workspace), _SERVING)
    request = pb.ApplyWorkspaceRequest(
        workspace=workspace,
        expected_version=expected_version,
        actor=actor,
        dry_run=dry_run,
        max_removals=max_removals,
    )
    with service.stub(CatalogServiceStub) as stub:
        plan = None if yes and not dry_run else _plan(stub, request)
        asked = plan is not None and not dry_run and _ask(plan, file)
        if plan is not None:
            # Apply exactly the changes that were shown, or none.
            request.expected_version = plan.version
        response = plan.response if plan is not None and dry_run else stub.ApplyWorkspace(request)
    if json:
        output.print_json(output.as_dict(response))
        return
    if response.change_count and not asked:
        found, details = (response.changes, {}) if plan is None else (plan.changes, plan.details)
        print_changes(found, response.change_count, details)
    print_summary(workspace.id, response, dry_run=dry_run)


class _Plan:
    """The changes that an apply would make.

    Attributes:
        response: The response of the dry run.
        version: The current version of the workspace; 0 for a new one.
        desired: The workspace in the file.
        before: The current workspace, or None if the dry run updates nothing.
        changes: The changes of the dry run. If there are very many, all removals and some of the others.
    """

    def __init__(self, stub: Any, request: pb.ApplyWorkspaceRequest, response: pb.ApplyWorkspaceResponse) -> None:  # noqa: ANN401 - a generated stub
        self.response = response
        self.version = response.version - bool(response.change_count)
        self.desired = request.workspace
        self.before: workspace_pb2.Workspace | None = None
        self.changes = list(response.changes)
        is_cut = response.change_count > len(response.changes)
        shown = (
            each.action == pb.CHANGE_ACTION_UPDATED or each.part == pb.WORKSPACE_PART_KEY_POLICY
            for each in response.changes
        )
        if self.version and (is_cut or any(shown)):
            wanted = pb.GetWorkspaceRequest(workspace_id=request.workspace.id, actor=request.actor)
            found = stub.GetWorkspace(wanted)
            if found.version != self.version:
                raise fail("the workspace was changed by somebody else just now: try again", Exit.CONFLICT)
            self.before = found.workspace
            if is_cut:
                self.changes = changes.with_all_removals(self.changes, found.workspace, self.desired)

    @property
    def details(self) -> dict[tuple[int, str], str]:
        """The changes of fields, for each updated part."""
        return {} if self.before is None else changes.details(self.before, self.desired, self.changes)

    @property
    def dangers(self) -> list[str]:
        """The changes that need a confirmation, each as a part of a sentence."""
        removed = changes.removals(self.changes)
        widened = [] if self.before is None else changes.widened_hats(self.before, self.desired)
        found = [f"removes {removed} part{'s' if removed > 1 else ''}"] if removed else []
        if widened:
            found.append(f"lets {_named(widened)} serve the whole workspace")
        if self.before is not None and changes.revokes_sooner(self.before, self.desired):
            length = shortest(self.desired.key_policy.revoke_unused_after.ToTimedelta())
            found.append(f"lets keys be revoked that nobody has used for {length}")
        return found


def warn_of_unserving(unserving: list[str], advice: str) -> None:
    """Report hats that serve nobody on standard error, and how to change that."""
    if unserving:
        hats, serve = ("hats", "serve") if len(unserving) > 1 else ("hat", "serves")
        say(visible(f"Warning: the {hats} {_named(unserving)} {serve} nobody. {advice}", sys.stderr))


def _named(ids: list[str]) -> str:
    """Return the first few ids, and how many more there are."""
    more = [f"{len(ids) - _NAMED} more"] if len(ids) > _NAMED else []
    *first, last = [*map(quoted, ids[:_NAMED]), *more]
    return f"{', '.join(first)} and {last}" if first else last


def _plan(stub: Any, request: pb.ApplyWorkspaceRequest) -> _Plan:  # noqa: ANN401 - a generated stub
    """Return the plan of an apply. If it is rejected because of too many removals, show them before raising."""
    dry = pb.ApplyWorkspaceRequest()
    dry.CopyFrom(request)
    dry.dry_run = True
    try:
        return _Plan(stub, request, stub.ApplyWorkspace(dry))
    except grpc.RpcError as error:
        count = _rejected_removals(error)
        if count is None:
            raise
        dry.max_removals = count
        _show(_Plan(stub, request, stub.ApplyWorkspace(dry)))
        raise


def _rejected_removals(error: grpc.RpcError) -> int | None:
    """Return the number of removals if they were rejected as too many, or None for any other error."""
    status, info = rpc_status.from_call(error), ErrorInfo()
    for packed in status.details if status is not None else ():
        if packed.Unpack(info) and info.reason == "TOO_MANY_CHANGED":
            return int(info.metadata["count"])
    return None


def _ask(plan: _Plan, file: Path) -> bool:
    """Show a dangerous plan, ask whether to continue, and return True. Return False if the plan is not dangerous.

    End the command if the answer is no, or if nobody can be asked.
    """
    if not plan.dangers:
        return False
    _show(plan)
    question = f"This {' and '.join(plan.dangers)}."
    if str(file) == "-":
        raise fail(f"{question} Standard input is the file, so it cannot be used to ask: use --yes", Exit.USAGE)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise fail(f"{question} There is no terminal to ask on: use --yes", Exit.USAGE)
    confirm(f"{question} Go on?", yes=False)
    return True


def _show(plan: _Plan) -> None:
    """Show a plan on standard error, because standard output may be a file."""
    found = plan.changes
    say(visible(f"Workspace {plan.desired.id}, now at version {plan.version}, would change:", sys.stderr))
    for part, id_, change, detail in islice(changes.rows(found, plan.details), SHOWN):
        say(visible(f"  {change:7}  {part:9}  {id_}{f'  ({detail})' if detail else ''}", sys.stderr))
    say(visible(in_all(found, plan.response.change_count), sys.stderr))
