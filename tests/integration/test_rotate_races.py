"""Rotations that meet other changes: whichever comes first, nothing that was ended lives on."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import PREVIOUS_KEYS_REVOKE, REVOKE_SCOPE_FAMILY, RevokeKeyRequest
from tests.support.calls import get_key, list_keys
from tests.support.lengths import by_form
from tests.support.service import Refusal, Service, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.waiting import outcome, outcome_after, until_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

pytestmark = GRPCIO_IF_SHORT

_ROUNDS = by_form(20, 40)
_STEP_MS = 4
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}


def revoke_family(service: Service, key_id: str) -> Awaitable[Any]:
    """Revoke a key's family."""
    call: Awaitable[Any] = service.operator.keys.RevokeKey(RevokeKeyRequest(key_id=key_id, scope=REVOKE_SCOPE_FAMILY))
    return call


async def test_of_several_rotations_at_once_one_wins(transport: str, service: Service, tmp_path: Path) -> None:
    """On two servers; the others are told of its successor."""
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        for _ in range(5):
            issued = await service.operator.issue()
            results = await asyncio.gather(
                *(outcome(each.operator.rotate(issued.key.id)) for each in (service, second) * 4)
            )
            (won,) = [each for each in results if not isinstance(each, Refusal)]
            refused = [each for each in results if isinstance(each, Refusal)]
            assert {each.reason for each in refused} == {"KEY_ALREADY_ROTATED"}
            assert all(each.metadata == {"successor_id": won.key.id} for each in refused)
            assert (await get_key(service.operator, issued.key.id)).successor_id == won.key.id


async def test_a_runtime_that_rotates_twice_at_once_gets_one_key(service: Service) -> None:
    """For example two agents by mistake."""
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    results = await asyncio.gather(*(outcome(instance.rotate_own(request_id=f"r-{number}")) for number in range(6)))
    assert sum(not isinstance(each, Refusal) for each in results) == 1
    assert len((await list_keys(service.operator)).keys) == 2


async def test_no_generation_outlives_the_revocation_of_its_family(
    transport: str, service: Service, tmp_path: Path
) -> None:
    """On two servers, many times. Each round gives more of a head start to the call that came too late."""
    seen: set[bool] = set()
    lead = 0
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        rounds = itertools.count(1)
        while next(rounds) <= _ROUNDS or len(seen) < 2:
            first = await service.operator.issue()
            newest = await service.operator.rotate(first.key.id)
            tokens = [first.token, newest.token]
            rotated, _ = await asyncio.gather(
                outcome_after(max(0, -lead), second.operator.rotate(newest.key.id, grace=Duration(seconds=60))),
                outcome_after(max(0, lead), revoke_family(service, first.key.id)),
            )
            if isinstance(rotated, Refusal):
                assert (rotated.reason, rotated.metadata["state"]) == ("KEY_NOT_ACTIVE", "REVOKED")
            else:
                tokens.append(rotated.token)
            for each in (service, second):
                for token in tokens:
                    assert await each.service.denial(token) == "REVOKED"
            refused = isinstance(rotated, Refusal)
            seen.add(refused)
            lead += _STEP_MS if refused else -_STEP_MS


ENDS: dict[str, Callable[[Service, str], Awaitable[Any]]] = {
    "family revoked": revoke_family,
    "issued anew": lambda service, _: service.operator.issue(**RUNTIME, previous_keys=PREVIOUS_KEYS_REVOKE),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("generations", [1, 2])
async def test_a_successor_that_is_being_made_is_seen(
    service: Service, sql: asyncpg.Connection[Any], end: str, generations: int
) -> None:
    """The rotation has written it and is about to commit; whoever ends the family waits for that, and ends it too."""
    first = await service.operator.issue(**RUNTIME)
    tokens, key_id = [first.token], first.key.id
    for _ in range(generations - 1):
        rotated = await service.operator.rotate(key_id)
        tokens.append(rotated.token)
        key_id = rotated.key.id
    async with sql.transaction():
        await sql.execute("SELECT FROM fence FOR UPDATE")  # which each commit of a change needs
        rotating = asyncio.create_task(outcome(service.operator.rotate(key_id)))
        await until_blocked(sql, 1)
        ending = asyncio.create_task(outcome(ENDS[end](service, first.key.id)))
        await until_blocked(sql, 2)
    ended = await ending
    assert not isinstance(ended, Refusal)
    tokens.append((await rotating).token)
    for token in tokens:
        assert await service.service.denial(token) == "REVOKED"


async def test_a_key_that_is_being_revoked_is_not_rotated(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The rotation waits, and finds it revoked."""
    for family in (False, True):
        issued = await service.operator.issue()
        async with sql.transaction():
            await sql.execute("SELECT FROM fence FOR UPDATE")
            call = revoke_family(service, issued.key.id) if family else service.operator.revoke(key_id=issued.key.id)
            revoking = asyncio.create_task(outcome(call))
            await until_blocked(sql, 1)
            rotating = asyncio.create_task(outcome(service.operator.rotate(issued.key.id)))
            await until_blocked(sql, 2)
        assert not isinstance(await revoking, Refusal)
        rotated = await rotating
        assert (rotated.reason, rotated.metadata["state"]) == ("KEY_NOT_ACTIVE", "REVOKED")
        assert await service.service.denial(issued.token) == "REVOKED"


async def test_a_use_of_both_tokens_at_a_rotation_succeeds(service: Service) -> None:
    """The old one is granted before, during and after it, the new one from its return on."""
    issued = await service.operator.issue()
    token, key_id = issued.token, issued.key.id
    for _ in range(20):
        asked = [asyncio.create_task(service.service.authorize(token)) for _ in range(5)]
        rotated = await service.operator.rotate(key_id)
        for each in (*asked, service.service.authorize(token), service.service.authorize(rotated.token)):
            assert (await each).HasField("granted")
        token, key_id = rotated.token, rotated.key.id
