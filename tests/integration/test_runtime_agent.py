"""The runtime agent against a real service: rotations, outages, crashes, and what others do to its key."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.cli.runtime_agent.agent import Wanted
from skilder_keys.cli.runtime_agent.files import FileError
from skilder_keys.domain.token import Token
from tests.support.calls import get_key, list_keys
from tests.support.lengths import by_form
from tests.support.runtime_agent import Crash, Place, RunningAgent, crash_after, crash_before
from tests.support.service import Service, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.waiting import until
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import asyncpg

pytestmark = GRPCIO_IF_SHORT

HOUR = 3600.0
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}


async def issued(service: Service, folder: Path, **fields: Any) -> Place:
    """Issue a key that lives for an hour, and put its token into a file."""
    key = await service.operator.issue(**{"lifetime": {"seconds": 3600}} | RUNTIME | fields)
    place = Place(service.address, folder)
    place.wall.now = time.time()
    place.put(key.token)
    return place


@pytest.fixture
async def place(service: Service, tmp_path: Path) -> Place:
    """A new key, its token file, and clocks that go only when the test says so."""
    return await issued(service, tmp_path)


@pytest.fixture
async def agent(place: Place) -> AsyncIterator[RunningAgent]:
    """An agent at that place."""
    agent = RunningAgent(place)
    yield agent
    agent.end()


async def works(service: Service, token: Token) -> bool:
    """Return whether a token is good, as the bearer token of a call."""
    instance = await service.client(token.reveal())
    try:
        return (await instance.authorize(token.reveal())).HasField("granted")
    finally:
        await instance.channel.close()


async def test_ten_rotations_with_the_service_away_in_between(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """An hour of the agent's clock passes in a moment. Both tokens work at each rotation; the newest always does."""
    place, agent = None, None
    tokens: list[Token] = []
    rounds = by_form(4, 10)
    for round_ in range(rounds):
        async with serving(database_url, tmp_path, transport=transport) as service:
            if place is None or agent is None:
                await service.operator.apply(small_workspace())
                place = await issued(service, tmp_path)
                agent = RunningAgent(place)
                tokens.append(place.token())
            place.address = service.address
            began = place.clock.now
            await asyncio.to_thread(agent.until_rotated)
            assert 0 < place.clock.now - began < 0.7 * HOUR
            tokens.append(place.token())
            assert place.is_ready()
            for token in tokens[-2:]:
                assert await works(service, token)
        if round_ % 2:  # it is away when the next rotation is due, and until the key has nearly expired
            end = place.clock.now + 0.95 * HOUR
            while place.clock.now < end:
                place.pass_time(await asyncio.to_thread(agent.step))
                assert place.is_ready()
            assert place.token() == tokens[-1]
    assert place is not None
    assert agent is not None
    agent.end()
    assert len({token.key_id for token in tokens}) == rounds + 1
    assert not any(token.reveal() in line for token in tokens for line in place.said)
    async with serving(database_url, tmp_path, transport=transport) as service:
        keys = list((await list_keys(service.operator)).keys)
        assert {key.family_id for key in keys} == {str(tokens[0].key_id)}
        assert [key.predecessor_id for key in keys[::-1]] == ["", *(str(token.key_id) for token in tokens[:-1])]


CRASHES: dict[str, Callable[[RunningAgent], None]] = {
    "before the rotation was written": lambda agent: crash_before(agent.rotation_file, "save"),
    "before the call": lambda agent: crash_before(agent.service, "rotate"),
    "after the call": lambda agent: crash_after(agent.service, "rotate"),
    "before the token was written": lambda agent: crash_before(agent.token_file, "replace"),
    "after the token was written": lambda agent: crash_after(agent.token_file, "replace"),
    "before the rotation was cleared": lambda agent: crash_before(agent.rotation_file, "clear"),
    "after the rotation was cleared": lambda agent: crash_after(agent.rotation_file, "clear"),
}


@pytest.mark.parametrize("when", CRASHES)
async def test_a_crash_loses_no_key(service: Service, place: Place, when: str) -> None:
    """Wherever it happens: the next agent finishes the rotation, with one successor, and its token works."""
    first = place.token()
    agent = RunningAgent(place)
    CRASHES[when](agent)
    with pytest.raises(Crash):
        await asyncio.to_thread(agent.until_rotated)
    agent.end()
    assert await works(service, place.token()), "whatever is in the file works"
    place.wall.now = time.time()
    after = RunningAgent(place)
    if place.token() == first:
        await asyncio.to_thread(after.until_rotated)
    else:
        await asyncio.to_thread(after.step)
    after.end()
    keys = (await list_keys(service.operator)).keys
    assert [key.id for key in keys] == [str(place.token().key_id), str(first.key_id)]
    assert keys[1].successor_id == keys[0].id
    assert await works(service, place.token())
    assert await works(service, first), "for its grace"
    assert place.is_ready()


async def test_a_retry_gets_the_same_key_with_a_new_secret(service: Service, place: Place) -> None:
    """The token that was lost does not work any more."""
    lost: list[Token] = []
    agent = RunningAgent(place)
    rotate = agent.service.rotate

    def lose(*arguments: Any) -> None:
        lost.append(Token.parse(rotate(*arguments).token))
        raise Crash

    agent.service.rotate = lose  # type: ignore[method-assign, assignment]
    with pytest.raises(Crash):
        await asyncio.to_thread(agent.until_rotated)
    agent.end()
    after = RunningAgent(place)
    await asyncio.to_thread(after.until_rotated, 1)
    after.end()
    assert place.token().key_id == lost[0].key_id
    assert place.token().secret != lost[0].secret
    assert await service.service.denial(lost[0].reveal()) == "UNKNOWN"


async def test_options_are_those_of_the_call_that_is_retried(service: Service, place: Place) -> None:
    """An agent that is started with others finishes what was begun, and uses its own from then on."""
    agent = RunningAgent(place, Wanted(grace=600, lifetime=1800))
    crash_after(agent.service, "rotate")
    with pytest.raises(Crash):
        await asyncio.to_thread(agent.until_rotated)
    agent.end()
    after = RunningAgent(place, Wanted(grace=60, lifetime=900))
    lifetimes = []
    for _ in range(2):
        await asyncio.to_thread(after.until_rotated)
        key = await get_key(service.operator, str(place.token().key_id))
        lifetimes.append(round(key.expires_at.ToNanoseconds() / 1e9 - key.created_at.ToNanoseconds() / 1e9))
    after.end()
    assert lifetimes == [1800, 900]


async def test_the_service_being_away_is_no_reason_to_be_unready(service: Service, place: Place) -> None:
    """Until the key must have expired. The pauses grow, and get shorter again near the end."""
    agent = RunningAgent(place)
    await asyncio.to_thread(agent.step)
    end = place.clock.now + HOUR
    place.address = "127.0.0.1:1"
    pauses = []
    while place.clock.now < end - 1:
        assert place.is_ready()
        pauses.append(await asyncio.to_thread(agent.step))
        place.pass_time(pauses[-1])
    place.pass_time(2)
    await asyncio.to_thread(agent.step)
    assert not place.is_ready()
    assert 30 <= max(pauses) <= 60
    assert pauses[-1] < 1
    assert "UNAVAILABLE" in place.said[-1]
    place.address = service.address
    await asyncio.to_thread(agent.step)
    assert place.is_ready(), "the key did not expire: only the agent's clock went on"
    agent.end()


async def test_a_revoked_key_is_unready_until_another_token_comes(
    service: Service, place: Place, agent: RunningAgent
) -> None:
    """The agent goes on by itself with the token that somebody puts into the file."""
    await asyncio.to_thread(agent.step)
    assert place.is_ready()
    await service.operator.revoke(key_id=str(place.token().key_id))
    await asyncio.to_thread(agent.step)
    assert not place.is_ready()
    assert "does not accept the token" in place.said[-1]
    other = await service.operator.issue(**RUNTIME)
    place.put(other.token)
    await asyncio.to_thread(agent.step)
    assert place.is_ready()


async def test_a_key_that_somebody_else_has_rotated_is_reported(
    service: Service, place: Place, agent: RunningAgent
) -> None:
    """It may have been stolen. When the stranger's key is revoked, the agent rotates."""
    await asyncio.to_thread(agent.step)
    key_id = str(place.token().key_id)
    stranger = await service.operator.keys.RotateKey(pb.RotateKeyRequest(key_id=key_id, grace=Duration(seconds=3000)))
    place.pass_time(0.7 * HOUR)
    await asyncio.to_thread(agent.step)
    assert "Somebody else has rotated the key" in place.said[-1]
    assert stranger.key.id in place.said[-1]
    assert place.is_ready(), "the token still works"
    await service.operator.revoke(key_id=stranger.key.id)
    await asyncio.to_thread(agent.until_rotated, 1)
    assert (await get_key(service.operator, key_id)).successor_id == str(place.token().key_id)


async def test_a_successor_that_was_revoked_before_its_token_came_is_replaced(
    service: Service, place: Place, agent: RunningAgent
) -> None:
    """With a new request_id."""
    crash_before(agent.token_file, "replace")
    with pytest.raises(Crash):
        await asyncio.to_thread(agent.until_rotated)
    agent.end()
    successor = (await list_keys(service.operator)).keys[0]
    await service.operator.revoke(key_id=successor.id)
    after = RunningAgent(place)
    await asyncio.to_thread(after.until_rotated, 2)
    after.end()
    assert str(place.token().key_id) != successor.id
    assert await works(service, place.token())


async def test_a_sooner_expiry_is_noticed(
    service: Service, place: Place, agent: RunningAgent, sql: asyncpg.Connection[Any]
) -> None:
    """The agent looks again and again, so it rotates after two thirds of the shorter life."""
    await asyncio.to_thread(agent.step)
    began = place.clock.now
    sooner = await sql.fetchval("UPDATE key SET expires_at = now() + interval '10 minutes' RETURNING expires_at")

    async def is_known() -> bool:
        granted = (await service.service.authorize(place.token().reveal())).granted
        return bool(granted.key.expires_at.ToDatetime(UTC) == sooner)

    await until(is_known)  # nobody waits for the fence after a change by hand
    await asyncio.to_thread(agent.until_rotated)
    assert place.clock.now - began < 500


async def test_a_key_without_an_expiry_gets_one(service: Service, tmp_path: Path, sql: asyncpg.Connection[Any]) -> None:
    """It was issued before runtime keys had one; so it is rotated at once."""
    place = await issued(service, tmp_path)
    await sql.execute("UPDATE key SET expires_at = NULL")
    agent = RunningAgent(place)
    await asyncio.to_thread(agent.until_rotated, 1)
    agent.end()
    key = await get_key(service.operator, str(place.token().key_id))
    assert key.expires_at.seconds - key.created_at.seconds == 30 * 24 * 3600


async def test_a_file_that_is_gone_is_waited_for(place: Place, agent: RunningAgent) -> None:
    """It is read before each step."""
    await asyncio.to_thread(agent.step)
    token = place.token()
    place.path.unlink()
    await asyncio.to_thread(agent.step)
    assert not place.is_ready()
    assert "No such file or directory" in place.said[-1]
    place.put(token.reveal())
    await asyncio.to_thread(agent.step)
    assert place.is_ready()


async def test_what_cannot_be_written_is_not_begun(service: Service, agent: RunningAgent) -> None:
    """A full disk, for example, is found before the call, so no key is made that nobody gets."""

    def full(_: object) -> None:
        raise FileError("no space left on device")

    agent.rotation_file.save = full  # type: ignore[method-assign, assignment]
    with pytest.raises(AssertionError, match="no space left on device"):
        await asyncio.to_thread(agent.until_rotated, 100)
    assert len((await list_keys(service.operator)).keys) == 1
