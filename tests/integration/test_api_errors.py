"""The table of errors in docs/api.md is true: the methods that it names have the error, with that code and metadata."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict, ParseDict

from skilder.keys.v1.key_pb2 import KEY_TYPE_RUNTIME
from skilder_keys.rpc.limits import max_bytes
from skilder_keys.rpc.status import STATUS_CODES
from tests.docs import errors
from tests.support.activity_facts import DAY, Fact, insert_facts, roll_up
from tests.support.calls import METHODS, call, delete_workspace, request_type
from tests.support.largest import full_workspace
from tests.support.service import refusal
from tests.support.sql import connected
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

ADVICE = errors.advice()
CODES = {kind.reason: code for kind, code in STATUS_CODES.items()}
METADATA = {kind.reason: set(kind.metadata) for kind in STATUS_CODES}


@GRPCIO_IF_SHORT
async def test_the_methods_of_an_error_have_it(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Each request of the table is refused with that reason and metadata."""
    operator = service.operator
    for workspace_id in ("other", "deleted"):
        await operator.apply(small_workspace(workspace_id))
    of_deleted = await operator.issue(workspace_id="deleted")
    await delete_workspace(operator, "deleted")
    strict = small_workspace("strict")
    strict.key_policy.require_hat_limit = strict.key_policy.unique_descriptions = True
    strict.key_policy.max_lifetime.seconds = 31_536_000
    await operator.apply(strict)
    await operator.issue(workspace_id="strict", description="Bot", hat_limit={"hat_ids": []})
    of_strict = await operator.issue(workspace_id="strict", description="Other bot", hat_limit={"hat_ids": []})
    await sql.execute("UPDATE audit_head SET pruned_number = 1 WHERE workspace_id = 'strict'")
    foreign = await operator.issue(workspace_id="other")
    key = await operator.issue(description="Bot")
    used = await operator.issue(description="Bot", request_id="used")
    await operator.authorize(used.token)
    revoked = await operator.issue(description="Bot", request_id="revoked")
    await operator.revoke(key_id=revoked.key.id)
    rotated = await operator.rotate(used.key.id, request_id="rotation-used")
    await operator.authorize(rotated.token)
    lost = await operator.rotate(key.key.id, request_id="rotation-revoked")
    await operator.revoke(key_id=lost.key.id)
    await insert_old_activity(service, UUID(key.key.id))
    runtimes = await runtimes_of(service)
    await operator.apply(full_workspace("full"))
    too_large = full_workspace("large")
    too_large.name += "!"
    values = {
        "token": key.token,
        "foreign token": foreign.token,
        "foreign key id": foreign.key.id,
        "key id": key.key.id,
        "revoked key id": revoked.key.id,
        "rotated key id": used.key.id,
        "deleted key id": of_deleted.key.id,
        "strict key id": of_strict.key.id,
        "too large": MessageToDict(too_large),
        "three months ago": f"{datetime.now(UTC) - timedelta(days=91):%Y-%m-%dT00:00:00Z}",
    }
    callers = {
        "ACTOR_REQUIRED": service.console,
        "FOREIGN_WORKSPACE": service.of_acme,
        "FOREIGN_MCP_SERVER": service.of_slack,
    }

    for reason, advice in ADVICE.items():
        for method, request in advice.requests.items():
            message = ParseDict(filled(request, values), request_type(method)())
            of_runtime = runtimes.get(reason) if method.startswith("RuntimeService/") else None
            refused = await refusal(call(of_runtime or callers.get(reason, operator), method, message))
            assert (refused.reason, refused.code) == (reason, CODES[reason]), method
            assert set(refused.metadata) == METADATA[reason], (reason, method)


async def insert_old_activity(service: Service, key_id: UUID) -> None:
    """Write activity of which the minutes are not kept any more."""
    minute = int((datetime.now(UTC) - timedelta(days=91)).timestamp()) // 60
    async with connected(service.database_url) as sql:
        await insert_facts(sql, [Fact(minute, key_id)])
        await roll_up(sql)
        await sql.execute("SELECT drop_activity_partitions('activity_minute', $1)", minute + 2 * DAY)


async def runtimes_of(service: Service) -> dict[str, Client]:
    """Return runtime instances with a rotated key, by the error that they get when they rotate it again."""
    clients = {}
    for number, (reason, request_id) in enumerate(
        {"KEY_ALREADY_ROTATED": "first", "REQUEST_USED": "used", "REQUEST_REVOKED": "revoked"}.items()
    ):
        issued = await service.operator.issue(type=KEY_TYPE_RUNTIME, runtime_id=f"runtime-{number}")
        clients[reason] = await service.client(issued.token)
        rotated = await clients[reason].rotate_own(request_id=request_id)
        if reason == "REQUEST_USED":
            await service.operator.authorize(rotated.token)
        if reason == "REQUEST_REVOKED":
            await service.operator.revoke(key_id=rotated.key.id)
    return clients


async def test_every_method_has_the_errors_that_the_table_gives_to_all(service: Service) -> None:
    """As far as a caller can cause them."""
    stranger = await service.client("nobody-we-know-0123456789")
    largest = max(map(max_bytes, METHODS.values()))
    for name, method in METHODS.items():
        right = await service.caller_of(name)
        wrong = service.console if name.startswith("Authorization") else service.service
        for client, request, reason in (
            (stranger, b"", "UNAUTHENTICATED"),
            (wrong, b"", "CALLER_NOT_ALLOWED"),
            (right, b"\xff", "MALFORMED_MESSAGE"),
            (right, b"\x9a\x06\x00", "UNKNOWN_FIELD"),
            (right, b"x" * (max_bytes(method) + 1), "MESSAGE_TOO_LONG"),
        ):
            if len(request) > largest:
                continue  # gRPC itself refuses this, with the same code and without a reason
            refused = await refusal(call(client, name, request))
            assert (refused.reason, refused.code) == (reason, CODES[reason]), name
            assert set(refused.metadata) == METADATA[reason], name
            assert not ADVICE[reason].requests


def filled(value: Any, values: dict[str, Any]) -> Any:
    """Return a request with values in place of their names, `${NAME}`."""
    match value:
        case dict():
            return {name: filled(each, values) for name, each in value.items()}
        case list():
            return [filled(each, values) for each in value]
        case str():
            name = re.fullmatch(r"\$\{(.+)\}", value)
            return values[name[1]] if name else value
        case _:
            return value
