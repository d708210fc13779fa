"""skilder-keys workspace policy: show, set, clear."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.cli import changes, output
from skilder_keys.cli.apply import Actor
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.durations import duration, shortest
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.parts import DryRun, WorkspaceId, print_response, until_made
from skilder_keys.cli.prompts import Yes, confirm

policy = typer.Typer(help="Show and change the key policy: what keys must keep to.", no_args_is_help=True)

_NONE = "none"
_MASK = FieldMask(paths=["key_policy"])

Reader = Annotated[str, typer.Option(help="Act for this user, by their id, who must be a member of the workspace.")]


def _length(text: str) -> timedelta | str:
    return _NONE if text == _NONE else duration(text)


def _number(text: str) -> int | str:
    if text != _NONE and not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is not a number, and not `none`")
    return _NONE if text == _NONE else int(text)


MaxLifetime = Annotated[
    Any,
    typer.Option(
        parser=_length, metavar="<time>", help="The longest lifetime of a key, such as 90d; none for any.",
        show_default=False,
    ),
]  # fmt: skip
MaxKeys = Annotated[
    Any,
    typer.Option(
        parser=_number, metavar="<number>", help="The most user keys that a user may have; none for any number.",
        show_default=False,
    ),
]  # fmt: skip
RequireHats = Annotated[
    bool | None,
    typer.Option("--require-hats/--no-require-hats", help="Whether workspace keys must be limited to named hats."),
]
Unique = Annotated[
    bool | None,
    typer.Option(
        "--unique-descriptions/--no-unique-descriptions", help="Whether no two keys may have the same description."
    ),
]


Unused = Annotated[
    Any,
    typer.Option(
        parser=_length,
        metavar="<time>",
        help="Revoke keys that nobody has used for so long, such as 90d; none for never. Asks first.",
        show_default=False,
    ),
]


@policy.command()
@connected
def show(service: Connection, workspace_id: WorkspaceId, actor: Reader = "", json: output.Json = False) -> None:
    """Show the key policy of a workspace."""
    request = pb.GetWorkspaceRequest(workspace_id=workspace_id, read_mask=_MASK, actor=actor)
    with service.stub(CatalogServiceStub) as stub:
        found = stub.GetWorkspace(request).workspace.key_policy
    if json:
        output.print_json(output.as_dict(found))
        return
    shown = {field.name: _shown(value) for field, value in found.ListFields()}
    if not shown:
        output.print_line(f"The workspace {workspace_id} has no key policy.")
    output.print_fields(shown.items())


@policy.command("set")
@connected
def set_(
    service: Connection,
    workspace_id: WorkspaceId,
    max_lifetime: MaxLifetime = None,
    max_keys_per_user: MaxKeys = None,
    require_hats: RequireHats = None,
    unique_descriptions: Unique = None,
    revoke_unused_after: Unused = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change rules of the key policy of a workspace. What is not named stays.

    No key that exists changes, but unused ones may be revoked.
    """
    values = {
        "max_lifetime": max_lifetime,
        "revoke_unused_after": revoke_unused_after,
        "max_active_keys_per_user": max_keys_per_user,
        "require_hat_limit": require_hats,
        "unique_descriptions": unique_descriptions,
    }
    named = {name: value for name, value in values.items() if value is not None}
    if not named:
        raise fail("nothing to set: name at least one rule, see --help", Exit.USAGE)

    def changed(before: workspace_pb2.KeyPolicy) -> workspace_pb2.KeyPolicy:
        after = workspace_pb2.KeyPolicy()
        after.CopyFrom(before)
        message: Any = after  # whose fields are named here by texts
        for name, value in named.items():
            message.ClearField(name)
            if isinstance(value, timedelta):
                getattr(message, name).FromTimedelta(value)
            elif value != _NONE:
                setattr(message, name, value)
        return after

    if isinstance(revoke_unused_after, timedelta) and not dry_run:
        words = f"Keys of {workspace_id} that nobody has used for {shortest(revoke_unused_after)} will be revoked."
        confirm(f"{words} That cannot be undone. Go on?", yes=yes)
    _put(service, workspace_id, changed, actor, dry_run=dry_run, json=json)


@policy.command()
@connected
def clear(
    service: Connection,
    workspace_id: WorkspaceId,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Remove the key policy of a workspace: no rule holds any more."""
    _put(service, workspace_id, lambda _: workspace_pb2.KeyPolicy(), actor, dry_run=dry_run, json=json)


def _put(
    service: Connection,
    workspace_id: str,
    changed: Any,  # noqa: ANN401 - a function
    actor: str,
    *,
    dry_run: bool,
    json: bool,
) -> None:
    with service.stub(CatalogServiceStub) as stub:

        def attempt() -> tuple[workspace_pb2.Workspace, workspace_pb2.Workspace, pb.UpdateWorkspaceResponse]:
            found = stub.GetWorkspace(pb.GetWorkspaceRequest(workspace_id=workspace_id, read_mask=_MASK, actor=actor))
            after = workspace_pb2.Workspace(key_policy=changed(found.workspace.key_policy))
            request = pb.UpdateWorkspaceRequest(
                workspace_id=workspace_id,
                expected_version=found.version,
                put=pb.WorkspaceParts(key_policy=after.key_policy),
                dry_run=dry_run,
                actor=actor,
            )
            return found.workspace, after, stub.UpdateWorkspace(request)

        before, after, response = until_made(attempt, workspace_id)
    print_response(workspace_id, response, changes.details(before, after, response.changes), dry_run, json=json)


def _shown(value: object) -> str:
    if isinstance(value, Duration):
        return shortest(value.ToTimedelta())
    return "yes" if value is True else str(value)
