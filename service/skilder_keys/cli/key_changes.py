"""skilder-keys keys suspend, and skilder-keys keys resume."""

from __future__ import annotations

from typing import Annotated

import typer

from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_options import Actor

Reason = Annotated[str, typer.Option(help="Why, as a text for the record.")]


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
