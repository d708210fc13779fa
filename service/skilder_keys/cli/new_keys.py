"""skilder-keys keys issue, and skilder-keys keys rotate: the commands that show a new token."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output, stdio
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_names
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_options import Actor, ExpiresAt, ExpiresIn, Grace, Networks, RequestId, WorkspaceId, labels_of
from skilder_keys.cli.text import Style, styled
from skilder_keys.domain.keys import PreviousKeys
from skilder_keys.domain.token import KeyType

_PREVIOUS = {PreviousKeys.KEEP: pb.PREVIOUS_KEYS_KEEP, PreviousKeys.REVOKE: pb.PREVIOUS_KEYS_REVOKE}


@connected
def issue(
    service: Connection,
    description: Annotated[
        str, typer.Argument(help="What the key is for, as a text by which others can recognize it later.")
    ],
    workspace: WorkspaceId,
    type_: Annotated[KeyType, typer.Option("--type", "-t", help="The key's type.")] = KeyType.WORKSPACE,
    user: Annotated[str, typer.Option(help="The member a user key belongs to, by their id.")] = "",
    runtime: Annotated[str, typer.Option(help="The instance a runtime key is for, by its id.")] = "",
    hat: Annotated[
        list[str] | None, typer.Option(metavar="<hat>", help="Limit the key to this hat; repeat it for several.")
    ] = None,
    all_hats: Annotated[
        bool, typer.Option("--all-hats", help="Do not limit the key to some hats.", show_default=False)
    ] = False,
    network: Networks = None,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="<label>", help="A label, NAME=VALUE; repeat it for several."),
    ] = None,
    previous_keys: Annotated[
        PreviousKeys | None,
        typer.Option(help="What becomes of the keys that the runtime instance has; needed if it has some."),
    ] = None,
    actor: Actor = "",
    request_id: RequestId = "",
    json: output.Json = False,
) -> None:
    """Issue a key and show its token, which cannot be shown again.

    A workspace or user key needs --hat or --all-hats. Only the token goes to standard output, everything else to
    standard error.
    """
    if type_ is not KeyType.RUNTIME and all_hats == bool(hat):
        raise fail(
            "give either --hat, once for each hat that the key may reach, or --all-hats for a key without that limit",
            Exit.USAGE,
        )
    request = pb.IssueKeyRequest(
        request_id=request_id or str(uuid.uuid4()),
        type=short_names(key_pb2.KeyType.DESCRIPTOR)[type_.value],  # type: ignore[arg-type]  # a number of the enum
        workspace_id=workspace,
        user_id=user,
        runtime_id=runtime,
        description=description,
        hat_limit=key_pb2.HatLimit(hat_ids=hat) if hat else None,
        network_limit=key_pb2.NetworkLimit(networks=network) if network else None,
        unlimited=[key_pb2.KEY_LIMIT_HATS] if all_hats else [],
        labels=labels_of(label or []),
        previous_keys=_PREVIOUS[previous_keys] if previous_keys else pb.PREVIOUS_KEYS_UNSPECIFIED,
        actor=actor,
    )
    _set_expiry(request, expires_in, expires_at)
    _show_token(service, lambda stub: stub.IssueKey(request), request.request_id, json=json)


@connected
def rotate(
    service: Connection,
    key: KeyName,
    workspace: WorkspaceOfKey = "",
    grace: Grace = None,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    actor: Actor = "",
    request_id: RequestId = "",
    json: output.Json = False,
) -> None:
    """Give a key a successor, and show the successor's token, which cannot be shown again.

    The old key works beside it for a grace. Without --expires-in or --expires-at the successor lives as long as the old
    key was to live. Only the token goes to standard output, everything else to standard error.
    """
    request = pb.RotateKeyRequest(request_id=request_id or str(uuid.uuid4()), actor=actor)
    if grace is not None:
        request.grace.FromTimedelta(grace)
    _set_expiry(request, expires_in, expires_at)

    def call(stub: Any) -> pb.RotateKeyResponse:  # noqa: ANN401 - stubs have no types
        request.key_id = find_key_id(stub, key, workspace, actor)
        response: pb.RotateKeyResponse = stub.RotateKey(request)
        return response

    _show_token(service, call, request.request_id, json=json)


def _set_expiry(
    request: pb.IssueKeyRequest | pb.RotateKeyRequest, expires_in: timedelta | None, expires_at: datetime | None
) -> None:
    if expires_in is not None and expires_at is not None:
        raise fail("give --expires-in or --expires-at, not both", Exit.USAGE)
    if expires_in is not None:
        request.lifetime.FromTimedelta(expires_in)
    if expires_at is not None:
        request.expires_at.FromDatetime(expires_at)


def _show_token(
    service: Connection,
    call: Callable[[Any], pb.IssueKeyResponse | pb.RotateKeyResponse],
    request_id: str,
    *,
    json: bool,
) -> None:
    """Make a call that returns a new token, and show the token and the key."""
    if stdio.is_closed(1):
        raise fail("standard output is closed, and the token goes there: no key was issued", Exit.USAGE)
    with _retry_explained(request_id):
        with service.stub(KeyServiceStub) as stub:
            response = call(stub)
        if json:
            output.print_json(output.as_dict(response))
        elif not sys.stdout.isatty():
            # Print it first, so that a failure of standard error cannot lose it.
            output.print_line(response.token)
    if json:
        return
    output.print_fields(output.key_fields(response.key), stderr=True)
    if isinstance(response, pb.RotateKeyResponse):
        old = response.predecessor
        ended = old.state != key_pb2.KEY_STATE_ACTIVE
        say(f"\nThe old key, {old.id}, {'has ended' if ended else f'works until {output.moment(old.expires_at)}'}.")
    if sys.stdout.isatty():
        say(styled("\nThe token, shown only this once:", Style.BOLD, sys.stderr))
        output.print_line(response.token)


@contextmanager
def _retry_explained(request_id: str) -> Iterator[None]:
    """If a key may have been issued and its token was not shown, report how to get the token."""
    again = f"again, with --request-id {request_id}"
    try:
        yield
    except stdio.OutputError:
        say(f"The key was issued, but its token could not be written. To get a new token, run the command {again}")
        raise
    except KeyboardInterrupt:
        say(f"The key may have been issued. To be sure, run the command {again}")
        raise
    except typer.Exit as error:
        if error.exit_code in (Exit.UNAVAILABLE, Exit.FAILED):
            say(f"The key may have been issued. To be sure, run the command {again}")
        raise
