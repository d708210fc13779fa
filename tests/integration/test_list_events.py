"""ListEvents: what is listed, by which filter, page by page, and that a reader can verify it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import audit_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import SuspendKeyRequest
from tests.support.calls import caller, delete_workspace, list_events, user
from tests.support.service import Client, Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT

ISSUED, SUSPENDED, REVOKED = (
    pb.AUDIT_ACTION_KEY_ISSUED,
    pb.AUDIT_ACTION_KEY_SUSPENDED,
    pb.AUDIT_ACTION_KEY_REVOKED,
)
APPLIED = pb.AUDIT_ACTION_WORKSPACE_APPLIED


async def everything(client: Client, *, page_size: int = 1000, **fields: Any) -> list[pb.AuditEvent]:
    """Return the events of all pages."""
    found: list[pb.AuditEvent] = []
    token = ""
    while True:
        page = await list_events(client, page_size=page_size, page_token=token, **fields)
        found += page.events
        token = page.next_page_token
        if not token:
            return found


async def bobs_keys(service: Service) -> tuple[str, str]:
    """Issue a key of Bob's and a workspace key, suspend the first and revoke it; return their ids."""
    bobs = await service.console.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob", actor="bob")
    shared = await service.operator.issue()
    await service.operator.keys.SuspendKey(SuspendKeyRequest(key_id=bobs.key.id, reason="Odd calls", actor="ada"))
    await service.operator.revoke(key_id=bobs.key.id, reason="Leaked")
    return bobs.key.id, shared.key.id


async def test_events_say_who_did_what_and_when(service: Service) -> None:
    """Newest first, with numbers without gaps."""
    began = datetime.now(UTC) - timedelta(seconds=5)
    bobs, shared = await bobs_keys(service)
    events = await everything(service.auditor)
    assert [(each.number, each.action, each.key_id, each.by, each.caller, each.reason) for each in events] == [
        (5, REVOKED, bobs, caller("operator"), "operator", "Leaked"),
        (4, SUSPENDED, bobs, user("ada"), "operator", "Odd calls"),
        (3, ISSUED, shared, caller("operator"), "operator", ""),
        (2, ISSUED, bobs, user("bob"), "console", ""),
        (1, APPLIED, "", caller("operator"), "operator", ""),
    ]
    for each in events:
        assert each.workspace_id == "acme"
        assert each.peer.startswith("ipv4:127.0.0.1:")
        # The workspace may have been there before.
        assert each.number == 1 or began < each.at.ToDatetime(tzinfo=UTC)
        assert each.at.ToDatetime(tzinfo=UTC) < datetime.now(UTC) + timedelta(seconds=5)
    changes = {each.path: json.loads(each.after) for each in events[3].changes}
    assert changes["user_id"] == "bob"
    assert changes["description"] == "Slack Support Bot"


async def test_a_reader_can_verify_the_events(service: Service) -> None:
    """Their hashes follow one from another, and their content says what their fields say."""
    await bobs_keys(service)
    hash_ = bytes(32)
    for each in reversed(await everything(service.auditor)):
        hash_ = sha256(hash_ + each.content).digest()
        assert each.hash == hash_
        content = json.loads(each.content)
        assert (content["workspace_id"], content["number"]) == (each.workspace_id, each.number)
        assert (content["key_id"] or "", content["caller"]) == (each.key_id, each.caller)
        assert content["private"] == sha256(each.private_content).hexdigest()
        private = json.loads(each.private_content[16:])
        assert (private["peer"], private["details"].get("reason", "")) == (each.peer, each.reason)


async def test_a_filter_chooses_events(service: Service) -> None:
    """Each field by itself, and all together."""
    bobs, shared = await bobs_keys(service)
    await service.operator.apply(small_workspace("other"))
    await service.operator.issue(workspace_id="other", type=key_pb2.KEY_TYPE_USER, user_id="bob")
    times = {each.number: each.at for each in await everything(service.auditor)}
    filters: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [5, 4, 3, 2, 1]),
        ({"key_id": bobs}, [5, 4, 2]),
        ({"key_id": shared}, [3]),
        ({"user_id": "bob"}, [5, 4, 2]),
        ({"user_id": "ada"}, []),
        ({"by": user("ada")}, [4]),
        ({"by": user("operator")}, []),
        ({"by": caller("operator")}, [5, 3, 1]),
        ({"actions": [ISSUED, APPLIED]}, [3, 2, 1]),
        ({"after": times[4]}, [5, 4]),
        ({"before": times[4]}, [3, 2, 1]),
        ({"after": times[2], "before": times[4]}, [3, 2]),
        ({"after": Timestamp(seconds=1), "before": Timestamp(seconds=2)}, []),
        ({"key_id": bobs, "user_id": "bob", "by": user("ada"), "actions": [SUSPENDED], "after": times[2]}, [4]),
        ({"key_id": bobs, "user_id": "ada"}, []),
        ({"user_id": "bob", "by": caller("operator")}, [5]),
    ]
    for fields, numbers in filters:
        for page_size in (1, 1000):
            found = await everything(service.auditor, page_size=page_size, filter=pb.EventFilter(**fields))
            assert [each.number for each in found] == numbers, fields


@ONLY_GRPCIO
@pytest.mark.own_service
async def test_rare_events_are_found_in_steps(
    service: Service, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be empty although there are more; none is left out, and none comes twice."""
    monkeypatch.setattr("skilder_keys.storage.audit_events.SCANNED", 7)
    rare = (await service.operator.issue()).key.id
    await service.operator.revoke(key_id=rare, reason="Rare")
    await sql.execute(
        "INSERT INTO audit_event (action, workspace_id, caller, peer, details)"
        " SELECT 'workspace.updated', 'acme', 'operator', '', '{}' FROM generate_series(1, 50)"
    )
    some = pb.EventFilter(actions=[ISSUED, REVOKED])
    first = await list_events(service.auditor, filter=some)
    assert not first.events
    assert first.next_page_token
    assert [each.key_id for each in await everything(service.auditor, filter=some)] == [rare, rare]


async def test_large_events_are_cut_into_pages(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """No response is too long for a client with gRPC's own limit."""
    await sql.execute(
        "INSERT INTO audit_event (action, workspace_id, caller, peer, details)"
        " SELECT 'workspace.updated', 'acme', 'operator', '', jsonb_build_object('diff', jsonb_build_array("
        " jsonb_build_array('name', repeat('\"', 50000), repeat('\"', 50000)))) FROM generate_series(1, 60)"
    )
    page = await list_events(service.auditor, page_size=1000)
    assert 2**20 < page.ByteSize() < 4 * 2**20
    found = await everything(service.auditor)
    assert [each.number for each in found] == list(range(61, 0, -1))
    assert found[0].changes[0].after == json.dumps('"' * 50_000)


async def test_only_admins_may_see_the_trail(service: Service) -> None:
    """Of their own workspace. The trail of a deleted workspace is for callers without an actor."""
    await service.operator.apply(small_workspace("other"))
    assert len(await everything(service.console, actor="ada")) == 1
    for fields, code, reason in (
        ({"actor": "bob"}, grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_ALLOWED"),
        ({"actor": "nobody"}, grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_MEMBER"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "ACTOR_REQUIRED"),
        ({"actor": "ada", "workspace_id": "nowhere"}, grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND"),
    ):
        found = await refusal(list_events(service.console, **fields))
        assert (found.code, found.reason) == (code, reason)
    await delete_workspace(service.operator, "other")
    found = await refusal(list_events(service.console, workspace_id="other", actor="ada"))
    assert found.reason == "ACTOR_NOT_MEMBER"
    deleted, applied = await everything(service.auditor, workspace_id="other")
    assert (deleted.action, applied.action) == (pb.AUDIT_ACTION_WORKSPACE_DELETED, APPLIED)


async def test_every_invalid_field_is_named(service: Service) -> None:
    """All at once."""
    wrong = pb.EventFilter(key_id="x", user_id=" bob", by=caller("a\nb"))
    found = await refusal(list_events(service.auditor, workspace_id="?", page_size=-1, filter=wrong))
    assert found.fields.keys() == {"workspace_id", "page_size", "filter.key_id", "filter.user_id", "filter.by.id"}
    none = pb.AUDIT_ACTION_UNSPECIFIED
    found = await refusal(list_events(service.auditor, filter=pb.EventFilter(by=user("ada"), actions=[none])))
    assert list(found.fields) == ["filter.actions[0]"]
