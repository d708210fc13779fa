"""Inputs from real life, through the API and a real Postgres: accepted unchanged, or refused with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from skilder.keys.v1 import key_pb2, key_service_pb2, workspace_pb2
from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from tests.support.calls import call, get_workspace, list_keys, user
from tests.support.cases import (
    MORE_IDS,
    MORE_TEXTS,
    REFUSED_TEXTS,
    REFUSED_USER_IDS,
    TAKEN_TEXTS,
    TAKEN_TOOL_IDS,
    TAKEN_USER_IDS,
)
from tests.support.lengths import by_form
from tests.support.service import Refusal, Service, refusal
from tests.support.shapes import canonical
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from typing import Any

    import asyncpg

pytestmark = GRPCIO_IF_SHORT

TEXTS = TAKEN_TEXTS | MORE_TEXTS
IDS = list(dict.fromkeys([*TAKEN_USER_IDS, *TAKEN_TOOL_IDS, *MORE_IDS]))
WORST = ["\U0001f916" * 255, "".join(chr(0x10000 + 37 * at) for at in range(255))]
"""Ids of the most bytes: one that compresses well in an index, and one that does not at all."""


def workspace_of(ids: list[str]) -> workspace_pb2.Workspace:
    """Return a workspace whose members, tools, tool names and MCP servers have these ids."""
    workspace = small_workspace()
    workspace.ClearField("members")
    for id_ in ids:
        workspace.members.add(user_id=id_, role=MEMBER_ROLE_ADMIN, team_ids=["support"])
    workspace.tools.extend(workspace_pb2.Tool(id=each, name=each, mcp_server=each) for each in ids)
    workspace.skills[0].tool_ids.extend(ids)
    return workspace


async def test_texts_are_accepted_unchanged(service: Service) -> None:
    """As a key's description, as names, as long texts and as a reason. Applied again, nothing differs."""
    workspace = small_workspace()
    for index, text in enumerate(TEXTS.values()):
        workspace.hats.add(id=f"h{index}", name=text[:128], description=text, instructions=f"{text}\n\t{text}\u2028")
        workspace.skills.add(id=f"s{index}", name=text[:128], description=text)
        workspace.teams.add(id=f"t{index}", name=text[:128])
        key = (await service.operator.issue(description=text)).key
        assert key.description == text
        revoked = await service.operator.revoke(key_id=key.id, reason=text)
        assert (revoked.description, revoked.revoke_reason) == (text, text)
    await service.operator.apply(workspace)
    shown = (await get_workspace(service.operator)).workspace
    assert shown == canonical(workspace)
    assert not (await service.operator.apply(shown)).changes
    assert not (await service.operator.apply(workspace)).changes


async def test_a_refused_text_names_its_character(service: Service) -> None:
    """Each case for its own reason, with the value and, where one is at fault, the character and its position."""
    reasons = {
        "bidi override": "is 'abc<U+202E>gnp.exe': character 4 is U+202E RIGHT-TO-LEFT OVERRIDE",
        "bidi isolate left open": "is 'a<U+2066>b': character 2 is U+2066 LEFT-TO-RIGHT ISOLATE",
        "escape": "is 'a<U+001B>[31mb': character 2 is U+001B ESCAPE",
        "NUL": "is 'a<U+0000>b': character 2 is U+0000 NULL",
        "newline in a one-line text": "is 'a<U+000A>b': character 2 is U+000A LINE FEED",
        "tab": "is 'a<U+0009>b': character 2 is U+0009 TAB",
        "C1 control": "is 'a<U+0085>b': character 2 is U+0085 NEXT LINE",
        "lone surrogate": "is not valid UTF-8: byte 2 is the first of U+D800, half of a surrogate pair",
        "nothing visible": "is '<U+200B><U+200B>', which has no visible character",
        "only spaces": "is '<U+3000><U+0020>', which has no visible character",
        "201 characters": "has 201 characters; at most 200 are allowed: 'aaaa",
    }
    assert reasons.keys() == REFUSED_TEXTS.keys()
    for what, text in REFUSED_TEXTS.items():
        # protobuf for Python refuses to encode a lone surrogate; a faulty program may send one.
        encoded = text.encode("utf-8", "surrogatepass")
        order = key_service_pb2.IssueKeyRequest(
            type=key_pb2.KEY_TYPE_WORKSPACE, workspace_id="acme", unlimited=[key_pb2.KEY_LIMIT_HATS]
        )
        order.description = "?" * len(encoded)
        body = order.SerializeToString().replace(order.description.encode(), encoded)
        refused = await refusal(call(service.operator, "KeyService/IssueKey", body))
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["description"]), what
        assert refused.fields["description"].startswith(reasons[what]), what


async def test_line_breaks_of_windows_become_line_feeds(service: Service) -> None:
    """For every client, so that the same text applied from another system changes nothing."""
    workspace = small_workspace()
    hat = workspace.hats[0]
    hat.description, hat.instructions = "one\r\ntwo\rthree", "a\r\n\r\nb\n" + "x\r\n" * 4997
    workspace.skills[0].description = "one\r\ntwo"
    await service.operator.apply(workspace)
    shown = {each.id: each for each in (await get_workspace(service.operator)).workspace.hats}[hat.id]
    assert (shown.description, shown.instructions) == ("one\ntwo\nthree", "a\n\nb\n" + "x\n" * 4997)
    assert not (await service.operator.apply(workspace)).changes
    hat.description, hat.instructions = shown.description, shown.instructions
    workspace.skills[0].description = "one\ntwo"
    assert not (await service.operator.apply(workspace)).changes


async def test_foreign_ids_are_accepted_unchanged(service: Service) -> None:
    """Of users, tools, tool names and MCP servers: applied, shown, granted, and applied again without a change."""
    workspace = workspace_of(IDS)
    await service.operator.apply(workspace)
    shown = (await get_workspace(service.operator)).workspace
    assert {each.user_id for each in shown.members} == set(IDS)
    assert {(each.id, each.name, each.mcp_server) for each in shown.tools} >= {(each, each, each) for each in IDS}
    assert not (await service.operator.apply(shown)).changes
    token = (await service.operator.issue()).token
    granted = (await service.service.authorize(token)).granted
    assert {each.id for each in granted.tool_set.tools} >= set(IDS)
    for id_ in IDS:
        tool = (await service.service.authorize(token, tool_id=id_)).granted.tool.tool
        assert (tool.id, tool.name, tool.mcp_server) == (id_, id_, id_)
    assert await service.service.denial(token, tool_id="E\u0301") == "TOOL_NOT_ALLOWED"


async def test_users_with_any_id_have_keys_and_act(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Their keys are issued, listed, paged, revoked and recorded in the audit trail under exactly their id."""
    ids = by_form(IDS[::3], IDS)
    await service.operator.apply(workspace_of(ids))
    for id_ in ids:
        order: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": id_, "actor": id_}
        issued = [await service.operator.issue(**order) for _ in range(2)]
        assert [(each.key.user_id, each.key.created_by) for each in issued] == [(id_, user(id_))] * 2
        assert (await service.service.authorize(issued[0].token)).granted.key.user_id == id_
        first = await list_keys(service.operator, filter={"user_ids": [id_]}, actor=id_, page_size=1)
        second = await list_keys(
            service.operator, filter={"user_ids": [id_]}, actor=id_, page_size=1, page_token=first.next_page_token
        )
        assert [first.keys[0].id, second.keys[0].id] == [issued[1].key.id, issued[0].key.id]
        assert (await service.operator.revoke(key_id=issued[0].key.id, actor=id_)).revoked_by == user(id_)
    actors = await sql.fetch("SELECT DISTINCT actor FROM audit_event WHERE action = 'key.revoked'")
    assert {row["actor"] for row in actors} == set(ids)


@pytest.mark.parametrize("id_", [*WORST, "größe 中文", "spiffe://acme.example/agent/7", "'; --"])
async def test_a_runtime_with_any_id_can_call(service: Service, id_: str) -> None:
    """It is a caller of that name, also in the log, and its errors arrive whole."""
    runtime = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id=id_)
    assert runtime.key.runtime_id == id_
    client = await service.client(runtime.token)
    token = (await service.operator.issue()).token
    assert (await client.authorize(token, tool_id="web.search")).granted.tool.tool.id == "web.search"
    assert await client.denial(token, tool_id=id_) == "TOOL_NOT_ALLOWED"
    refused = await refusal(list_keys(client))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert f"runtime:{id_}" in {each.get("caller") for each in service.log.events}
    fault = await refusal(client.authorize(token, tool_id=f"{id_}\n"))
    assert "U+000A LINE FEED" in fault.fields["tool_id"] or "has 256 characters" in fault.fields["tool_id"]


@pytest.mark.stock_too
async def test_the_longest_ids_fit_every_index(service: Service) -> None:
    """Of 1,020 incompressible bytes, three in one entry; a workspace's own id adds its 64."""
    workspace = workspace_of(WORST)
    workspace.id = "w" * 64
    workspace.teams.add(id="t" * 64, name="T")
    workspace.skills.add(id="s" * 64, name="S", tool_ids=WORST)
    for member in workspace.members:
        member.team_ids.append("t" * 64)
    await service.operator.apply(workspace)
    for id_ in WORST:
        issued = await service.operator.issue(workspace_id=workspace.id, type=key_pb2.KEY_TYPE_USER, user_id=id_)
        assert issued.key.user_id == id_
    assert not (await service.operator.apply(workspace)).changes


async def test_a_refused_user_id_names_its_character(service: Service) -> None:
    """In a workspace, for a key and as an actor; the database is not asked."""
    for id_ in [*REFUSED_USER_IDS, "\u200b", "a\u202eb", "\ufeffalice", "alice\xa0"]:
        violations = Violations()
        violations.foreign_id("x", id_)
        with pytest.raises(InvalidRequestError) as caught:
            violations.raise_if_any()
        reported = caught.value.violations[0].description
        refused: list[Refusal] = [await refusal(service.operator.apply(workspace_of([id_])))]
        assert refused[0].fields["workspace.members[0].user_id"] == reported
        refused.append(await refusal(service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id=id_)))
        assert refused[1].fields == {"user_id": reported}
        if id_:
            assert (await refusal(service.operator.issue(actor=id_))).fields == {"actor": reported}
            listed = await refusal(list_keys(service.operator, filter={"user_ids": [id_]}))
            assert listed.fields == {"filter.user_ids[0]": reported}
