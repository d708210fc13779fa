"""Keys that are limited to networks: used from elsewhere, or from nobody knows where, they are denied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.denial import NO_SOURCE, DenialReason
from skilder_keys.domain.ids import ToolId
from tests.support.calls import get_key
from tests.support.fence import epoch, touched, warm
from tests.support.service import refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT, with_envoy_if_short

if TYPE_CHECKING:
    import asyncpg

    from tests.support.fleet import Process
    from tests.support.service import Service

    Sql = asyncpg.Connection[Any]

LIMIT = {"networks": ["198.51.100.0/24", "2001:db8::/32"]}
NEAR, FAR = "198.51.100.7", "203.0.113.9"


@pytest.mark.parametrize(
    ("source_ip", "granted"),
    [
        (NEAR, True),
        ("2001:db8::1", True),
        (f"::ffff:{NEAR}", True),
        (FAR, False),
        ("2001:db9::1", False),
        (f"::{NEAR}", False),
        ("", False),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_key_is_good_in_its_networks_only(service: Service, source_ip: str, granted: bool) -> None:  # noqa: FBT001
    """In every method, on the first call and from memory, whatever is asked."""
    issued = await service.operator.issue(network_limit=LIMIT)
    other = await service.operator.issue()
    assert list(issued.key.network_limit.networks) == LIMIT["networks"]
    ask = pb.AuthorizeRequest(token=issued.token, source_ip=source_ip)
    for fields in ({}, {"tool_id": "git.commit"}, {"tool_id": "nothing.like.it"}, {"view": pb.TOOL_SET_VIEW_NONE}):
        for _ in range(2):
            response = await service.service.authorize(issued.token, source_ip=source_ip, **fields)
            if granted and fields.get("tool_id") != "nothing.like.it":
                assert response.HasField("granted"), response
            elif granted:
                assert response.denied.reason == pb.DENIAL_REASON_TOOL_NOT_ALLOWED
            else:
                assert response.denied.reason == pb.DENIAL_REASON_SOURCE_NOT_ALLOWED
                assert response.denied.key_id == issued.key.id
                expected = DenialReason.SOURCE_NOT_ALLOWED.value if source_ip else NO_SOURCE
                assert response.denied.message == expected
                assert response.denied.WhichOneof("tool") is None
    batch = pb.BatchAuthorizeRequest(requests=[ask, pb.AuthorizeRequest(token=other.token)])
    responses = (await service.service.authorization.BatchAuthorize(batch)).responses
    assert [each.WhichOneof("verdict") for each in responses] == ["granted" if granted else "denied", "granted"]
    parts = [each async for each in service.service.authorization.ReadToolSet(pb.ReadToolSetRequest(request=ask))]
    assert [each.WhichOneof("part") for each in parts] == ["tool_set" if granted else "denied"]


@GRPCIO_IF_SHORT
async def test_other_denials_come_first(service: Service) -> None:
    """What is known of the key is the same everywhere; only then its networks, and then the tool."""
    issued = await service.operator.issue(network_limit=LIMIT)
    assert await service.service.denial(issued.token, source_ip=FAR, tool_id="nothing") == "SOURCE_NOT_ALLOWED"
    await service.operator.revoke(key_id=issued.key.id)
    assert await service.service.denial(issued.token, source_ip=FAR) == "REVOKED"


@pytest.mark.parametrize("text", [f"{NEAR}:443", "[2001:db8::1]", "2001:db8::1%eth0", "localhost", " ", "x" * 5000])
@with_envoy_if_short(text=[f"{NEAR}:443"])
@TOGETHER_IF_SHORT
async def test_the_form_of_the_source_is_always_checked(service: Service, text: str) -> None:
    """Also for a key without networks that is in memory, and for one that is unknown."""
    issued = await service.operator.issue()
    near = await service.operator.issue(network_limit=LIMIT)
    for _ in range(2):
        assert (await service.service.authorize(issued.token, source_ip=NEAR)).HasField("granted")
    for token in (issued.token, near.token, "no token"):
        refused = await refusal(service.service.authorize(token, source_ip=text))
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["source_ip"])
    ask = pb.AuthorizeRequest(token=issued.token, source_ip=text)
    refused = await refusal(service.service.authorization.BatchAuthorize(pb.BatchAuthorizeRequest(requests=[ask])))
    assert list(refused.fields) == ["requests[0].source_ip"]


@GRPCIO_IF_SHORT
@pytest.mark.parametrize(
    ("networks", "place"),
    [
        ([], "network_limit.networks"),
        (["10.0.0.0/8"] * 2, "network_limit.networks[1]"),
        (["10.0.0.0/8", "10.1.2.3/8"], "network_limit.networks[1]"),
        (["10.0.0.0"], "network_limit.networks[0]"),
        (["everywhere"], "network_limit.networks[0]"),
        ([f"10.{n}.0.0/16" for n in range(33)], "network_limit.networks"),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_bad_network_is_refused(service: Service, sql: Sql, networks: list[str], place: str) -> None:
    """By its place, and no key is issued."""
    refused = await refusal(service.operator.issue(network_limit={"networks": networks}))
    assert list(refused.fields) == [place]
    assert await sql.fetchval("SELECT count(*) FROM key") == 0


@GRPCIO_IF_SHORT
async def test_the_limit_is_shown_in_its_usual_form(service: Service) -> None:
    """In order, whatever the request said; a retry with the same words is the same request."""
    limit = {"networks": ["2001:0DB8::/32", "9.0.0.0/8", "10.0.0.0/8"]}
    issued = await service.operator.issue(network_limit=limit, request_id="r")
    assert list(issued.key.network_limit.networks) == ["9.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"]
    assert await get_key(service.operator, issued.key.id) == issued.key
    assert (await service.operator.issue(network_limit=limit, request_id="r")).key == issued.key
    for other in ({}, {"network_limit": LIMIT}):
        assert list((await refusal(service.operator.issue(request_id="r", **other))).fields) == ["request_id"]


async def test_a_runtime_calls_from_its_networks(service: Service) -> None:
    """The address of its connection counts, since nobody stands between."""
    other = await service.operator.issue()
    for networks, allowed in ((["127.0.0.0/8", "::1/128"], True), (["198.51.100.0/24"], False)):
        issued = await service.operator.issue(
            type=key_pb2.KEY_TYPE_RUNTIME, runtime_id=f"in {networks[0]}", network_limit={"networks": networks}
        )
        runtime = await service.client(issued.token)
        if allowed:
            assert (await runtime.authorize(other.token)).HasField("granted")
        else:
            assert (await refusal(runtime.authorize(other.token))).code is grpc.StatusCode.UNAUTHENTICATED


async def outcome(one: Process, token: str, source_ip: str, tool_id: str | None = None) -> str:
    """Authorize a token and return `granted`, or the reason why it is denied."""
    query = AuthorizeQuery(token, None if tool_id is None else ToolId(tool_id), source_ip=source_ip)
    fast = one.authorizer.grant(query)
    decision = await one.decide(query)
    said = "granted" if decision.denied is None else decision.denied.name
    assert fast is None or said == "granted"
    return said


async def test_memory_knows_the_networks(reader: Process) -> None:
    """A key in memory is granted from the one address and denied from the other, with no query."""
    _, token = await reader.issue(networks=("198.51.100.0/24",))
    await warm(reader, token, NEAR)
    lent, hits = reader.database.lent, reader.memory.hits
    for _ in range(5):
        assert await outcome(reader, token, NEAR) == "granted"
        assert await outcome(reader, token, NEAR, "nothing") == "TOOL_NOT_ALLOWED"
        for tool in (None, "git.commit", "nothing"):
            assert await outcome(reader, token, FAR, tool) == "SOURCE_NOT_ALLOWED"
            assert await outcome(reader, token, "", tool) == "SOURCE_NOT_ALLOWED"
    assert reader.database.lent == lent
    assert reader.memory.hits > hits + 40


async def test_a_denied_source_is_no_use(reader: Process, sql: Sql) -> None:
    """Of a key that was used before: who tries a stolen token does not keep it from being idle."""
    key, token = await reader.issue(networks=("198.51.100.0/24",))
    await warm(reader, token, NEAR)
    await sql.execute("UPDATE key SET last_used_at = created_at")
    reader.usage_clock.now += 600
    assert await outcome(reader, token, FAR) == "SOURCE_NOT_ALLOWED"
    await reader.usage.flush()
    assert await sql.fetchval("SELECT last_used_at = created_at FROM key WHERE id = $1", key.id)


async def test_networks_changed_by_hand_pass_the_fence(writer: Process, sql: Sql) -> None:
    """As any other change of what a key may do; older workers find no hash."""
    key, _ = await writer.issue()
    before = await epoch(sql)
    await sql.execute("UPDATE key SET networks = '{10.0.0.0/8}'")
    assert await touched(sql, before) == {(key.id, None, None, None)}
    assert await sql.fetchval("SELECT secret_hash IS NULL AND guarded_hash IS NOT NULL AND version = 2 FROM key")
