"""skilder-keys keys update, suspend and resume."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_options import Actor, ExpiresAt, ExpiresIn, Networks, labels_of

Reason = Annotated[str, typer.Option(help="Why, as a text for the record.")]


@connected
def update(
    service: Connection,
    key: KeyName,
    workspace: WorkspaceOfKey = "",
    description: Annotated[
        str | None, typer.Option(help="What the key is for from now on, as a text.", show_default=False)
    ] = None,
    hat: Annotated[
        list[str] | None,
        typer.Option(metavar="<hat>", help="Limit the key to this hat and no others; repeat it for several."),
    ] = None,
    no_hats: Annotated[bool, typer.Option("--no-hats", help="Let the key reach no hat.", show_default=False)] = False,
    all_hats: Annotated[
        bool, typer.Option("--all-hats", help="Do not limit the key to some hats.", show_default=False)
    ] = False,
    network: Networks = None,
    any_network: Annotated[
        bool, typer.Option("--any-network", help="Do not limit the key to some networks.", show_default=False)
    ] = False,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    never_expires: Annotated[
        bool, typer.Option("--never-expires", help="Let the key not expire.", show_default=False)
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", "-l", metavar="<label>", help="Have this label and no others, NAME=VALUE; repeat it for several."
        ),
    ] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Have no labels.", show_default=False)] = False,
    expected_version: Annotated[
        int | None, typer.Option(help="Change the key only if it is at this version.", show_default=False)
    ] = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change a key at once: what is named. Everything else stays as it is."""
    request = pb.UpdateKeyRequest(expected_version=expected_version, actor=actor)
    if description is not None:
        request.update_mask.paths.append("description")
        request.key.description = description
    if label and no_labels:
        raise fail("give only one of --label and --no-labels", Exit.USAGE)
    if label or no_labels:
        request.update_mask.paths.append("labels")
        request.key.labels.update(labels_of(label or []))
    _set_hats(request, hat or [], no_hats=no_hats, all_hats=all_hats)
    _set_networks(request, network or [], any_network=any_network)
    _set_expiry(request, expires_in, expires_at, never=never_expires)
    if not request.update_mask.paths:
        raise fail("name what to change, for example --description", Exit.USAGE)
    with service.stub(KeyServiceStub) as stub:
        request.key.id = find_key_id(stub, key, workspace, actor)
        changed = stub.UpdateKey(request).key
    output.print_key(changed, json=json)


def _set_hats(request: pb.UpdateKeyRequest, hat_ids: list[str], *, no_hats: bool, all_hats: bool) -> None:
    if sum((bool(hat_ids), no_hats, all_hats)) > 1:
        raise fail("give only one of --hat, --no-hats and --all-hats", Exit.USAGE)
    if hat_ids or no_hats:
        request.key.hat_limit.CopyFrom(key_pb2.HatLimit(hat_ids=hat_ids))
    elif all_hats:
        request.unlimited.append(key_pb2.KEY_LIMIT_HATS)
    else:
        return
    request.update_mask.paths.append("hat_limit")


def _set_networks(request: pb.UpdateKeyRequest, networks: list[str], *, any_network: bool) -> None:
    if networks and any_network:
        raise fail("give only one of --network and --any-network", Exit.USAGE)
    if networks:
        request.key.network_limit.CopyFrom(key_pb2.NetworkLimit(networks=networks))
    elif any_network:
        request.unlimited.append(key_pb2.KEY_LIMIT_NETWORKS)
    else:
        return
    request.update_mask.paths.append("network_limit")


def _set_expiry(
    request: pb.UpdateKeyRequest, expires_in: timedelta | None, expires_at: datetime | None, *, never: bool
) -> None:
    if sum((expires_in is not None, expires_at is not None, never)) > 1:
        raise fail("give only one of --expires-in, --expires-at and --never-expires", Exit.USAGE)
    if expires_in is not None:
        expires_at = datetime.now(UTC) + expires_in
    if expires_at is not None:
        request.key.expires_at.FromDatetime(expires_at)
    elif never:
        request.unlimited.append(key_pb2.KEY_LIMIT_EXPIRY)
    else:
        return
    request.update_mask.paths.append("expires_at")


@connected
def suspend(
    service: Connection,
    key: KeyName,
    workspace: WorkspaceOfKey = "",
    reason: Reason = "",
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Suspend a key: its token is denied at once, until you resume the key."""
    with service.stub(KeyServiceStub) as stub:
        key_id = find_key_id(stub, key, workspace, actor)
        suspended = stub.SuspendKey(pb.SuspendKeyRequest(key_id=key_id, reason=reason, actor=actor)).key
    output.print_key(suspended, json=json)


@connected
def resume(
    service: Connection,
    key: KeyName,
    workspace: WorkspaceOfKey = "",
    reason: Reason = "",
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Resume a suspended key: its token is good again, if nothing else is in its way."""
    with service.stub(KeyServiceStub) as stub:
        key_id = find_key_id(stub, key, workspace, actor)
        resumed = stub.ResumeKey(pb.ResumeKeyRequest(key_id=key_id, reason=reason, actor=actor)).key
    output.print_key(resumed, json=json)
