"""Every response about keys fits into the 4 MiB that clients take by default, however large the keys are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import key_pb2, key_service_pb2, workspace_pb2
from skilder_keys.rpc.convert import MAX_PAGE_BYTES
from skilder_keys.storage import key_lists
from tests.support.calls import count_keys, get_key, list_keys
from tests.support.ids import new_key_id
from tests.support.lengths import by_form
from tests.support.rows import NO_HASH, without_events
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT

WIDE = "\N{ROBOT FACE}"
"""A character of four bytes."""
WORKSPACE_ID = "w" * 64
USER_ID = WIDE * 255
HAT_IDS = [f"{number:02}{'h' * 62}" for number in range(100)]
NETWORKS = [f"{'ffff:' * 7}ff{number:02x}/128" for number in range(32)]
DNS_NAME = ".".join(["d" * 63] * 3 + ["d" * 61])
LABELS = {f"{DNS_NAME}/{number:02}{'n' * 61}": "v" * 63 for number in range(16)}
LARGEST = 23_520
"""About the bytes of the largest possible key."""


async def apply_largest(service: Service) -> None:
    """Apply a workspace whose ids are as long as they may be, with 100 hats and one admin."""
    workspace = workspace_pb2.Workspace(id=WORKSPACE_ID, name=WIDE * 128)
    workspace.members.add(user_id=USER_ID, role=workspace_pb2.MEMBER_ROLE_ADMIN)
    for hat_id in HAT_IDS:
        workspace.hats.add(id=hat_id, name="H")
    await service.operator.apply(workspace)


async def add_largest_keys(sql: asyncpg.Connection[Any], number: int) -> list[UUID]:
    """Add suspended and revoked user keys with the longest texts and limits; return their ids, newest first."""
    ids = sorted((new_key_id() for _ in range(number)), reverse=True)
    async with without_events(sql):
        await sql.execute(
            """
            INSERT INTO key (id, type, workspace_id, user_id, description, secret_hash, limited_to_hats, last_used_at,
                             created_by_kind, created_by_id, revoked_at, revoked_by_kind, revoked_by_id, revoke_reason,
                             suspended_at, suspended_by_kind, suspended_by_id, suspend_reason,
                             expires_at, networks, labels)
            SELECT id, 'user', $2, $3, repeat($4, 200), $5, true, now(), 'user', $3, now(), 'user', $3, repeat($4, 500),
                   now(), 'user', $3, repeat($4, 500), now() + interval '1 day', $6::text[]::cidr[], $7::text::jsonb
            FROM unnest($1::uuid[]) AS id
            """,
            ids,
            WORKSPACE_ID,
            USER_ID,
            WIDE,
            NO_HASH,
            NETWORKS,
            json.dumps(LABELS),
        )
        await sql.execute(
            "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT $1, key_id, hat_id"
            " FROM unnest($2::uuid[]) AS key_id, unnest($3::text[]) AS hat_id",
            WORKSPACE_ID,
            ids,
            HAT_IDS,
        )
    return list(ids)


async def test_pages_of_the_largest_keys_end_early(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Before 3 MiB, and each goes on where the one before ended, so that none is lost. The last has no token."""
    await apply_largest(service)
    count = by_form(300, 600)
    added = await add_largest_keys(sql, count)
    found: list[str] = []
    sizes = []
    token = ""
    while True:
        page = await list_keys(service.operator, workspace_id=WORKSPACE_ID, page_size=1000, page_token=token)
        found += [key.id for key in page.keys]
        sizes.append(page.ByteSize())
        token = page.next_page_token
        if not token:
            break
    assert found == [str(key_id) for key_id in added]
    assert all(MAX_PAGE_BYTES - LARGEST < size < MAX_PAGE_BYTES + 512 for size in sizes[:-1]), sizes
    assert len(sizes) == 1 + count // (len(found) and MAX_PAGE_BYTES // page.keys[0].ByteSize())


async def test_a_page_that_ends_early_need_not_have_another_page(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """A page size that the bytes allow is kept exactly, to the last key."""
    await apply_largest(service)
    await add_largest_keys(sql, 8)
    page = await list_keys(service.operator, workspace_id=WORKSPACE_ID, page_size=4)
    rest = await list_keys(service.operator, workspace_id=WORKSPACE_ID, page_size=4, page_token=page.next_page_token)
    assert (len(page.keys), len(rest.keys), rest.next_page_token) == (4, 4, "")


async def test_a_response_about_the_largest_key_is_small(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Of GetKey, RevokeKey and ListKeys, with every field that a user key can have, as long as it may be."""
    client = service.operator
    await apply_largest(service)
    first = await client.issue(
        workspace_id=WORKSPACE_ID,
        type=key_pb2.KEY_TYPE_USER,
        user_id=USER_ID,
        actor=USER_ID,
        description=WIDE * 200,
        hat_limit={"hat_ids": HAT_IDS},
        network_limit={"networks": NETWORKS},
        expires_at=datetime.now(UTC) + timedelta(days=90),
        labels=LABELS,
    )
    key_id = (await client.rotate(first.key.id, actor=USER_ID)).key.id
    await client.rotate(key_id, actor=USER_ID)
    await client.keys.SuspendKey(key_service_pb2.SuspendKeyRequest(key_id=key_id, actor=USER_ID, reason=WIDE * 500))
    await sql.execute("UPDATE key SET last_used_at = now() WHERE id = $1", key_id)
    revoked = await client.revoke(key_id=key_id, actor=USER_ID, reason=WIDE * 500)
    assert await get_key(client, key_id, actor=USER_ID) == revoked
    unset = set(key_pb2.Key.DESCRIPTOR.fields_by_name) - {field.name for field, _ in revoked.ListFields()}
    assert unset == {"runtime_id", "violations", "actions", "last_source_ip"}, (
        "no revoked and unused user key has these"
    )
    sizes = (len(revoked.hat_limit.hat_ids), len(revoked.network_limit.networks), len(revoked.labels))
    assert sizes == (100, 32, 16)
    assert LARGEST - 50 < revoked.ByteSize() < LARGEST + 50
    page = await list_keys(client, workspace_id=WORKSPACE_ID)
    assert revoked in page.keys


@ONLY_GRPCIO
@pytest.mark.own_service
async def test_a_count_that_stops_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as many keys as it may, and is partial from then on."""
    await service.operator.apply(small_workspace())
    for number in range(5):
        await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id=("bob", "cyd")[number % 2])
    monkeypatch.setattr(key_lists, "_PATIENCE", "1min")
    for most, counted in ((6, 5), (5, 5), (4, 4), (1, 1)):
        monkeypatch.setattr(key_lists, "MAX_COUNTED", most)
        for wanted in ({}, {"types": [key_pb2.KEY_TYPE_USER]}, {"user_ids": ["bob", "cyd"]}):
            found = await count_keys(service.operator, filter=wanted)
            assert sum(each.count for each in found.counts) == counted, (most, wanted)
            assert found.partial == (most <= counted)
