"""The audit trail after changes made by chance: the chain is sound, and its diffs lead to what there is."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.domain.audit_check import ExpectedHead
from skilder_keys.domain.difference import difference
from skilder_keys.domain.field_changes import field_changes
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces
from tests.support.audit import findings
from tests.support.calls import get_workspace
from tests.support.lengths import by_form
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.updates import random_update

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

pytestmark = GRPCIO_IF_SHORT


def replay(state: dict[str, Any], diff: list[list[Any]]) -> None:
    """Make the changes of one event to a workspace: its parts, and the values of its own fields, by their paths."""
    for path, before, after in diff:
        part, _, name = path.rpartition(".")
        if path in state or part not in state:  # a whole part, or a field of the workspace itself
            assert state.pop(path, None) == before, path
            if after is not None:
                state[path] = after
        else:
            assert state[part].get(name) == before, path
            state[part][name] = after


async def change(source: random.Random, client: Client, keys: list[str]) -> None:
    """Make one change by chance, which may be refused."""
    key = source.choice(keys) if keys else ""
    actor = source.choice(["", "", "ada", "bob", "zoe"])
    reason = source.choice(["", "Grüße", 'a "quote" and \\ a backslash'])
    kinds = ["update", "update", "update", "apply", "issue", "issue", "rotate", "revoke", "suspend", "resume"]
    match source.choice(kinds):
        case "update":
            request = random_update(source, (await get_workspace(client)).workspace)
            request.actor = actor
            await client.catalog.UpdateWorkspace(request)
        case "apply":
            workspace = (await get_workspace(client)).workspace
            workspace.name = source.choice(["Acme", "Acme & Söhne"])
            for hat in workspace.hats:
                hat.instructions = source.choice([hat.instructions, "", "x" * 3000])
            await client.apply(workspace, actor=actor)
        case "issue":
            issued = await client.issue(actor=actor, request_id=source.choice(["", "r-1", "r-2"]))
            keys.append(issued.key.id)
        case "rotate":
            keys.append((await client.rotate(key, actor=actor)).key.id)
        case "revoke":
            scope = source.choice([pb.REVOKE_SCOPE_KEY, pb.REVOKE_SCOPE_FAMILY])
            await client.revoke(key_id=key, reason=reason, actor=actor, scope=scope)
        case "suspend":
            await client.keys.SuspendKey(pb.SuspendKeyRequest(key_id=key, reason=reason, actor=actor))
        case _:
            await client.keys.ResumeKey(pb.ResumeKeyRequest(key_id=key, reason=reason, actor=actor))


@pytest.mark.parametrize("seed", range(by_form(1, 4, 10)))
async def test_the_trail_leads_to_what_there_is(service: Service, sql: asyncpg.Connection[Any], seed: int) -> None:
    """Whatever was changed, or refused: nothing but the changes is in the trail, and every head that was logged."""
    source = random.Random(seed)  # noqa: S311 - no secret
    keys: list[str] = []
    refused = 0
    for _ in range(60):
        try:
            await change(source, service.operator, keys)
        except grpc.aio.AioRpcError as error:
            refused += 1
            if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE):
                raise
    assert 0 < refused < 50
    logged = [ExpectedHead.parse(each["audit_head"]) for each in service.log.events if "audit_head" in each]
    assert await findings(sql, expected=logged) == []
    assert logged[-1].head.number == await sql.fetchval("SELECT count(*) FROM audit_event")
    state: dict[str, Any] = {}
    for row in await sql.fetch("SELECT details FROM audit_event WHERE action LIKE 'workspace.%' ORDER BY number"):
        replay(state, json.loads(row["details"])["diff"])
    there = checked(convert_workspaces.workspace((await get_workspace(service.operator)).workspace))
    expected: dict[str, Any] = {}
    replay(expected, json.loads(json.dumps(field_changes(difference(None, there))[0])))
    assert state == expected
