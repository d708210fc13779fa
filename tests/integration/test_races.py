"""Concurrent calls: whatever comes first, what one caller was told stays true for the next."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import grpc

from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.calls import delete_workspace, get_key, get_workspace, list_keys, remove
from tests.support.lengths import by_form
from tests.support.service import Refusal, Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.waiting import outcome_after, until_running
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from skilder.keys.v1 import key_service_pb2

pytestmark = GRPCIO_IF_SHORT

_ROUNDS = by_form(20, 40)


async def test_a_key_is_used_or_renewed_and_never_both(
    transport: str, service: Service, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """A granted first use refuses the retry; a retry that succeeded ends the first token.

    On one server and on two, many times, with a growing head start for either call.
    """
    seen = set()
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        for round_ in range(_ROUNDS):
            issued = await service.operator.issue(request_id=f"r-{round_}")
            decision, retried = await asyncio.gather(
                outcome_after(round_ % 7 * 8, second.service.authorize(issued.token)),
                outcome_after(round_ % 5 * 8, service.operator.issue(request_id=f"r-{round_}")),
            )
            if decision.HasField("granted"):
                assert isinstance(retried, Refusal), round_
                assert (retried.reason, retried.metadata) == ("REQUEST_USED", {"key_id": issued.key.id})
                assert (await service.service.authorize(issued.token)).HasField("granted")
            else:
                assert decision.denied.reason == pb.DENIAL_REASON_UNKNOWN
                assert retried.key.id == issued.key.id
                assert await second.service.denial(issued.token) == "UNKNOWN"
                assert (await second.service.authorize(retried.token)).HasField("granted")
            seen.add(decision.WhichOneof("verdict"))
        second.watch.seen.clear()
    assert seen == {"granted", "denied"}
    used = await sql.fetchval("SELECT count(*) FROM key WHERE last_used_at IS NULL")
    assert used == 0


async def test_after_a_revocation_nothing_is_granted(transport: str, service: Service, tmp_path: Path) -> None:
    """20 callers on two servers call all the time; no call that begins after RevokeKey has returned is granted."""
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        for used_before in (True, False):
            issued = await service.operator.issue()
            if used_before:
                await second.service.authorize(issued.token)
            revoked, late, decided = False, [], 0

            async def ask(caller: Service, token: str) -> None:
                nonlocal decided
                asked_late = False
                while not asked_late:
                    asked_late = revoked  # noqa: B023 - each round waits for its own callers
                    response = await caller.service.authorize(token)
                    decided += 1
                    if asked_late:
                        late.append(response.denied)  # noqa: B023 - the same

            callers = [asyncio.create_task(ask(each, issued.token)) for each in (service, second) for _ in range(10)]
            while decided < 20:
                await asyncio.sleep(0)
            await service.operator.revoke(key_id=issued.key.id)
            revoked = True
            await asyncio.gather(*callers)
            expected = pb.Denied(reason=pb.DENIAL_REASON_REVOKED, message="The key was revoked.", key_id=issued.key.id)
            assert late == [expected] * 20


async def test_a_revocation_waits_for_no_change_of_the_workspace(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """While a change holds its locks, keys are revoked and authorized and everything is read."""
    issued, other = await service.operator.issue(), await service.operator.issue()
    changed = small_workspace()
    changed.hats.add(id="new", name="New")
    async with sql.transaction():
        # Reading is allowed, writing waits.
        await sql.execute("LOCK TABLE hat IN EXCLUSIVE MODE")
        applying = asyncio.create_task(service.operator.apply(changed))
        await until_running(sql, 1)
        assert (await service.service.authorize(other.token)).HasField("granted")
        assert (await service.operator.revoke(key_id=issued.key.id)).HasField("revoked_at")
        assert (await service.operator.revoke(token=other.token)).HasField("revoked_at")
        assert await service.service.denial(issued.token) == "REVOKED"
        assert (await get_workspace(service.operator)).version == 1
        assert len((await list_keys(service.operator)).keys) == 2
        assert not applying.done()
    assert (await applying).version == 2


async def test_a_change_of_the_workspace_is_seen_by_every_later_call(
    transport: str, service: Service, tmp_path: Path
) -> None:
    """On another server too: no call that begins after ApplyWorkspace has returned sees the old state."""
    small = small_workspace()
    without = small_workspace()
    remove(without.hats, "engineer")
    issued = await service.operator.issue()
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        for round_ in range(_ROUNDS // 2):
            calls = [asyncio.create_task(second.service.authorize(issued.token)) for _ in range(5)]
            await service.operator.apply(without if round_ % 2 == 0 else small)
            response = await second.service.authorize(issued.token)
            hats = [hat.id for hat in response.granted.tool_set.hats]
            assert ("engineer" in hats) == (round_ % 2 == 1)
            for earlier in await asyncio.gather(*calls):
                # Before or after the change, but never a mixture of both.
                tools = {tool.id for tool in earlier.granted.tool_set.tools}
                reported = {hat.id for hat in earlier.granted.tool_set.hats}
                assert ("git.commit" in tools) == ("engineer" in reported)


async def test_a_key_is_issued_before_the_deletion_or_not_at_all(service: Service) -> None:
    """Every issued key is listed, and gone with its workspace; every other call was refused as too late."""
    seen: set[int] = set()
    for round_ in itertools.count():
        if round_ >= _ROUNDS // 2 and len(seen) > 1:
            return
        workspace_id = f"w{round_}"
        await service.operator.apply(small_workspace(workspace_id))
        *issued, deleted = await asyncio.gather(
            *(
                outcome_after(
                    index * round_,
                    service.operator.issue(workspace_id=workspace_id, hat_limit={"hat_ids": ["everyone"]}),
                )
                for index in range(4)
            ),
            outcome_after(round_ % 5, delete_workspace(service.operator, workspace_id)),
        )
        assert deleted.HasField("deleted_at")
        issued_keys: list[key_service_pb2.IssueKeyResponse] = []
        for each in issued:
            if isinstance(each, Refusal):
                assert (each.code, each.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_DELETED")
            else:
                issued_keys.append(each)
        seen.add(len(issued_keys))
        for each in issued_keys:
            assert await service.service.denial(each.token) == "WORKSPACE_GONE"
        listed = await list_keys(service.operator, workspace_id=workspace_id)
        assert sorted(key.id for key in listed.keys) == sorted(each.key.id for each in issued_keys)


async def test_a_key_is_never_limited_to_a_hat_removed_meanwhile(service: Service) -> None:
    """If a hat is removed while a key is issued for it, the key is refused or does not reach it."""
    without = small_workspace()
    remove(without.hats, "engineer")
    for round_ in range(_ROUNDS // 2):
        await service.operator.apply(small_workspace())
        issued, _ = await asyncio.gather(
            outcome_after(round_ % 4 * 8, service.operator.issue(hat_limit={"hat_ids": ["engineer"]})),
            outcome_after(round_ % 5 * 8, service.operator.apply(without)),
        )
        if isinstance(issued, Refusal):
            assert list(issued.fields) == ["hat_limit.hat_ids[0]"]
        else:
            response = await service.service.authorize(issued.token)
            assert list(response.granted.tool_set.hats) == []


async def test_concurrent_revocations_are_one(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """All get the same response, with the reason of the first; the trail records it once."""
    for _ in range(5):
        issued = await service.operator.issue()
        revoked = await asyncio.gather(
            *(service.operator.revoke(key_id=issued.key.id, reason=f"by id {index}") for index in range(5)),
            *(service.operator.revoke(token=issued.token, reason=f"by token {index}") for index in range(5)),
        )
        assert revoked == [await get_key(service.operator, issued.key.id)] * 10
        details = await sql.fetch("SELECT details ->> 'reason' FROM audit_event WHERE action = 'key.revoked'")
        assert [row[0] for row in details] == [revoked[0].revoke_reason]
        await sql.execute("ALTER TABLE audit_event DISABLE TRIGGER USER; DELETE FROM audit_event")


async def test_a_key_that_is_revoked_and_renewed_at_once_ends_revoked(service: Service) -> None:
    """After both calls the key is revoked, and its last token is denied as such."""
    for round_ in range(_ROUNDS // 2):
        issued = await service.operator.issue(request_id=f"r-{round_}")
        retried, revoked = await asyncio.gather(
            outcome_after(round_ % 5 * 8, service.operator.issue(request_id=f"r-{round_}")),
            outcome_after(round_ % 7 * 8, service.operator.revoke(key_id=issued.key.id)),
        )
        assert revoked.id == issued.key.id
        if isinstance(retried, Refusal):
            assert retried.reason == "REQUEST_REVOKED"
            assert await service.service.denial(issued.token) == "REVOKED"
        else:
            assert await service.service.denial(issued.token) == "UNKNOWN"
            assert await service.service.denial(retried.token) == "REVOKED"
        again = await refusal(service.operator.issue(request_id=f"r-{round_}"))
        assert again.reason == "REQUEST_REVOKED"


async def test_a_revoked_token_may_lose_a_race_against_its_renewal(service: Service) -> None:
    """When a retry has just replaced the token, either the key is revoked or the token is unknown."""
    for round_ in range(_ROUNDS // 2):
        issued = await service.operator.issue(request_id=f"r-{round_}")
        retried, revoked = await asyncio.gather(
            outcome_after(round_ % 5 * 8, service.operator.issue(request_id=f"r-{round_}")),
            outcome_after(round_ % 7 * 8, service.operator.revoke(token=issued.token)),
        )
        last = issued if isinstance(retried, Refusal) else retried
        if isinstance(revoked, Refusal):
            assert revoked.reason == "KEY_NOT_FOUND"
            assert (await service.service.authorize(last.token)).HasField("granted")
        else:
            assert await service.service.denial(last.token) == "REVOKED"
