"""skilder-keys keys revoke, for all keys that match a filter."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.exits import say
from skilder_keys.cli.paging import pages
from skilder_keys.cli.prompts import confirm, require_terminal
from skilder_keys.cli.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.cli.client import Connection

_SHOWN = 10
"""How many keys are shown before the question."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show which keys would be revoked.")]
MaxKeys = Annotated[
    int | None,
    typer.Option(
        min=0, help="Revoke nothing if more keys match [default: as many as match at first].", show_default=False
    ),
]


def show_matching(service: Connection, request: pb.RevokeKeysRequest, *, json: bool) -> None:
    """Show the keys that would be revoked: as a table, or as the service's response to a dry run."""
    with service.stub(KeyServiceStub) as stub:
        response = _dry_run(stub, request)
        if json:
            output.print_json(output.as_dict(response))
            return
        _print_keys(stub, request, None)
    say(f"This would revoke {_keys(response.key_count)}.")


def revoke_matching(service: Connection, request: pb.RevokeKeysRequest, *, yes: bool, json: bool) -> None:
    """Revoke the keys that match. Show some and ask first."""
    require_terminal(yes=yes)
    revoked = pb.RevokeKeysResponse()
    with _progress(revoked), service.stub(KeyServiceStub) as stub:
        matching = _dry_run(stub, request)
        if not yes and matching.key_count:
            say(f"{_keys(matching.key_count)} of workspace {request.workspace_id} match, for example:")
            _print_keys(stub, request, _SHOWN, stderr=True)
            confirm(
                f"Everything that uses these {_keys(matching.key_count)} stops working at once."
                " This cannot be undone. Go on?",
                yes=False,
            )
        bound = request.max_keys if request.HasField("max_keys") else matching.key_count
        more = True
        while more:
            request.max_keys = max(0, bound - revoked.key_count)
            response = stub.RevokeKeys(request)
            revoked.key_count += response.key_count
            revoked.key_ids.extend(response.key_ids)
            more = response.more
            _show_progress(revoked.key_count, bound)
    if json:
        output.print_json(output.as_dict(revoked))
    else:
        output.print_line(f"Revoked {_keys(revoked.key_count)}.")


def _dry_run(stub: Any, request: pb.RevokeKeysRequest) -> pb.RevokeKeysResponse:  # noqa: ANN401 - stubs have no types
    dry = pb.RevokeKeysRequest()
    dry.CopyFrom(request)
    dry.dry_run = True
    response: pb.RevokeKeysResponse = stub.RevokeKeys(dry)
    return response


def _print_keys(stub: Any, request: pb.RevokeKeysRequest, limit: int | None, *, stderr: bool = False) -> None:  # noqa: ANN401 - the same
    """Print the keys that match and are not revoked, those that were not used for longest first."""
    wanted = pb.ListKeysRequest(
        workspace_id=request.workspace_id,
        filter=request.filter,
        order_by=pb.KEY_ORDER_LEAST_RECENTLY_USED,
        actor=request.actor,
    )
    states = set(wanted.filter.states or key_pb2.KeyState.values()) - {
        key_pb2.KEY_STATE_UNSPECIFIED,
        key_pb2.KEY_STATE_REVOKED,
    }
    if not states:
        return
    del wanted.filter.states[:]
    wanted.filter.states.extend(states)
    if not stderr:
        output.print_list("keys", output.KEY_COLUMNS, output.key_row, pages(stub.ListKeys, wanted, "keys"), json=False)
        return
    wanted.page_size = limit or 0
    for key in stub.ListKeys(wanted).keys:
        say(visible("  " + "  ".join((key.hint, key.user_id or key.runtime_id or "-", key.description)), sys.stderr))


def _keys(number: int) -> str:
    return "1 key" if number == 1 else f"{number:,} keys"


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\rRevoked {done:,} of {total:,} keys")
        sys.stderr.flush()


@contextmanager
def _progress(revoked: pb.RevokeKeysResponse) -> Iterator[None]:
    """End the line of the progress. If the command fails, report what was revoked until then."""
    try:
        yield
    except (typer.Exit, KeyboardInterrupt):
        if revoked.key_count:
            _end_line()
            say(f"{_keys(revoked.key_count)} were revoked before that. To go on, run the command again.")
        raise
    if revoked.key_count:
        _end_line()


def _end_line() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
