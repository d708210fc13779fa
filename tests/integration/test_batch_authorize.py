"""BatchAuthorize: many tokens in one call, each decided as Authorize would."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.app.authorization.tool_sets import SharedToolSet
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import get_key, part
from tests.support.fence import LONG
from tests.support.fleet import process
from tests.support.ids import new_key_id
from tests.support.service import Client, Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import asyncpg

    from skilder.keys.v1 import key_service_pb2
    from skilder_keys.app.authorization.encoding import EncodedToolSet
    from skilder_keys.app.authorization.memory import Access
    from tests.support.fleet import Process


Asked = pb.AuthorizeRequest | str


async def batch(client: Client, *requests: Asked) -> pb.BatchAuthorizeResponse:
    """Authorize a batch of requests, or of tokens alone."""
    response: pb.BatchAuthorizeResponse = await client.authorization.BatchAuthorize(
        pb.BatchAuthorizeRequest(requests=map(request_of, requests))
    )
    return response


def request_of(asked: Asked) -> pb.AuthorizeRequest:
    """Return a request, or the request about a token."""
    return pb.AuthorizeRequest(token=asked) if isinstance(asked, str) else asked


def alone(response: pb.BatchAuthorizeResponse, requests: Iterable[Asked]) -> list[pb.AuthorizeResponse]:
    """Return the responses in the form that Authorize gives: each with its tool set."""
    shared = {tool_set.version: tool_set for tool_set in response.tool_sets}
    assert len(shared) == len(response.tool_sets), "each tool set is in the batch once"
    named, copies = set(), []
    for request, each in zip(requests, response.responses, strict=True):
        copy = pb.AuthorizeResponse()
        copy.CopyFrom(each)
        assert copy.granted.WhichOneof("reach") != "tool_set"
        version = copy.granted.tool_set_version
        if version and version != request_of(request).tool_set_version:
            named.add(version)
            copy.granted.tool_set.CopyFrom(shared[version])
        copies.append(copy)
    assert named == set(shared), "no tool set is in the batch without a grant that names it"
    return copies


async def one_by_one(client: Client, *requests: Asked) -> list[pb.AuthorizeResponse]:
    """Send the same queries with Authorize."""
    return [await client.authorization.Authorize(request_of(each)) for each in requests]


async def issued(service: Service, count: int, **fields: Any) -> list[key_service_pb2.IssueKeyResponse]:
    """Issue some keys."""
    return [await service.operator.issue(**fields) for _ in range(count)]


async def test_each_decision_is_in_its_requests_place(service: Service) -> None:
    """Good and bad tokens mixed, and the same token several times with different queries."""
    good, limited = await service.operator.issue(), await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    user = await service.operator.issue(type="KEY_TYPE_USER", user_id="bob")
    revoked = await service.operator.issue()
    await service.operator.revoke(key_id=revoked.key.id)
    version = (await service.service.authorize(good.token)).granted.tool_set.version
    requests: list[Asked] = [
        good.token,
        "no token",
        pb.AuthorizeRequest(token=good.token, tool_id="slack.history"),
        revoked.token,
        pb.AuthorizeRequest(token=good.token, tool_set_version=version),
        limited.token,
        Token.mint(KeyType.WORKSPACE, new_key_id()).reveal(),
        pb.AuthorizeRequest(token=limited.token, tool_id="git.commit"),
        good.token,
        "",
        Token.mint(KeyType.WORKSPACE, Token.parse(good.token).key_id).reveal(),
        user.token,
        pb.AuthorizeRequest(token=limited.token, tool_set_version=version),
    ]
    response = await batch(service.service, *requests)
    assert alone(response, requests) == await one_by_one(service.service, *requests)
    kinds = [each.granted.WhichOneof("reach") or each.denied.reason for each in response.responses]
    assert kinds == [
        "tool_set_version",
        pb.DENIAL_REASON_MALFORMED,
        "tool",
        pb.DENIAL_REASON_REVOKED,
        "tool_set_version",
        "tool_set_version",
        pb.DENIAL_REASON_UNKNOWN,
        pb.DENIAL_REASON_TOOL_NOT_ALLOWED,
        "tool_set_version",
        pb.DENIAL_REASON_MALFORMED,
        pb.DENIAL_REASON_UNKNOWN,
        "tool_set_version",
        "tool_set_version",
    ]
    assert len(response.tool_sets) == 3


@GRPCIO_IF_SHORT
async def test_keys_of_equal_reach_share_one_tool_set_in_a_batch(service: Service) -> None:
    """However many there are; with the version that Authorize returns."""
    all_of_them = await issued(service, 20)
    response = await batch(service.service, *(each.token for each in all_of_them))
    (tool_set,) = response.tool_sets
    assert tool_set == (await service.service.authorize(all_of_them[0].token)).granted.tool_set
    assert [each.granted.key.id for each in response.responses] == [each.key.id for each in all_of_them]
    assert {each.granted.tool_set_version for each in response.responses} == {tool_set.version}


@GRPCIO_IF_SHORT
async def test_known_versions_and_single_tools_bring_no_tool_set(service: Service) -> None:
    """Nor do denials."""
    good = await service.operator.issue()
    version = (await service.service.authorize(good.token)).granted.tool_set.version
    response = await batch(
        service.service,
        pb.AuthorizeRequest(token=good.token, tool_set_version=version),
        pb.AuthorizeRequest(token=good.token, tool_id="web.search"),
        "no token",
    )
    assert len(response.tool_sets) == 0
    assert response.responses[0].granted.tool_set_version == version


async def test_an_empty_batch_has_an_empty_response(service: Service) -> None:
    """It is no error."""
    assert await batch(service.service) == pb.BatchAuthorizeResponse()


@GRPCIO_IF_SHORT
async def test_a_batch_has_at_most_a_thousand_requests(service: Service) -> None:
    """One more is refused by the field's name, and nothing is decided."""
    good = await issued(service, 5)
    tokens = [good[index % 5].token for index in range(1000)]
    response = await batch(service.service, *tokens)
    assert [each.granted.key.id for each in response.responses] == [good[index % 5].key.id for index in range(1000)]
    refused = await refusal(batch(service.service, *tokens, good[0].token))
    assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["requests"])
    unknown = [Token.mint(KeyType.WORKSPACE, new_key_id()).reveal() for _ in range(1000)]
    denied = await batch(service.service, *unknown)
    assert {each.denied.reason for each in denied.responses} == {pb.DENIAL_REASON_UNKNOWN}
    assert len(denied.responses) == 1000


async def test_a_bad_field_is_reported_with_its_index(service: Service) -> None:
    """All of them, cold and warm. Any text in a token's place is only an invalid token."""
    good = await service.operator.issue()
    for _ in range(2):
        refused = await refusal(
            batch(
                service.service,
                good.token,
                pb.AuthorizeRequest(token=good.token, tool_set_version="x" * 65),
                pb.AuthorizeRequest(token="no token " * 1000),
                pb.AuthorizeRequest(token=good.token, tool_id=" a b"),
                pb.AuthorizeRequest(token="no token", tool_id="\x1b", tool_set_version="\x1b"),
                pb.AuthorizeRequest(token=good.token, tool_id=""),
            )
        )
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(refused.fields) == [
            "requests[1].tool_set_version",
            "requests[3].tool_id",
            "requests[4].tool_id",
            "requests[4].tool_set_version",
            "requests[5].tool_id",
        ]
        await service.service.authorize(good.token)


async def test_a_runtime_instance_may_authorize_keys_of_its_own_workspace_only(service: Service) -> None:
    """One foreign key refuses the whole call, cold and warm; wrong secrets of foreign keys are unknown tokens."""
    await service.operator.apply(small_workspace("globex"))
    runtime = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    own, foreign = await service.operator.issue(), await service.operator.issue(workspace_id="globex")
    instance = await service.client(runtime.token)
    wrong = Token.mint(KeyType.WORKSPACE, Token.parse(foreign.token).key_id).reveal()
    for _ in range(3):
        tokens = (own.token, runtime.token, wrong)
        assert alone(await batch(instance, *tokens), tokens) == await one_by_one(service.service, *tokens)
        refused = await refusal(batch(instance, own.token, foreign.token, own.token))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FOREIGN_WORKSPACE")
        assert (await service.service.authorize(foreign.token)).HasField("granted")


@GRPCIO_IF_SHORT
async def test_one_undecidable_token_fails_the_call(
    transport: str, service: Service, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """UNAVAILABLE for all, and never a denial. A batch of keys in memory alone succeeds."""
    warm, cold = await issued(service, 2)
    async with serving(service.database_url, tmp_path, transport=transport, lock_timeout=0.2) as second:
        async with asyncio.timeout(60):
            while not await second.metric("cached_keys"):
                await second.service.authorize(warm.token)
        async with sql.transaction():
            await sql.execute("LOCK TABLE key IN ACCESS EXCLUSIVE MODE")
            refused = await refusal(batch(second.service, warm.token, "no token", cold.token))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
            response = await batch(second.service, warm.token, "no token")
        assert [each.WhichOneof("verdict") for each in response.responses] == ["granted", "denied"]


@GRPCIO_IF_SHORT
async def test_uses_are_recorded(service: Service) -> None:
    """Of every granted token, at once for a first use; denied tokens have no use."""
    good, unreached, revoked = await issued(service, 3)
    await service.operator.revoke(key_id=revoked.key.id)
    before = (await get_key(service.operator, revoked.key.id)).ByteSize()
    await batch(
        service.service,
        good.token,
        pb.AuthorizeRequest(token=unreached.token, tool_id="git.push"),
        revoked.token,
    )
    assert (await get_key(service.operator, good.key.id)).HasField("last_used_at")
    assert (await get_key(service.operator, revoked.key.id)).ByteSize() == before


@ONLY_GRPCIO
@pytest.mark.own_service
async def test_tool_sets_without_room_are_only_named(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decisions come first, then each tool set that still has room, in the order of the requests."""
    limits: list[dict[str, Any]] = [{}, *({"hat_limit": {"hat_ids": [each]}} for each in ("everyone", "engineer"))]
    tokens = [(await service.operator.issue(**each)).token for each in limits]
    whole = await batch(service.service, *tokens)
    assert len(whole.tool_sets) == 3
    sizes = [len(pb.Granted(tool_set=each).SerializeToString()) for each in whole.tool_sets]
    # Four bytes are counted before each decision.
    decisions = sum(4 + each.ByteSize() for each in whole.responses)
    for room, kept in (
        (decisions + sum(sizes), [0, 1, 2]),
        (decisions + sum(sizes) - 1, [0, 1]),
        (decisions + sizes[0] - 1, [1, 2]),
        (decisions + sizes[1], [1]),
        (decisions, []),
    ):
        monkeypatch.setattr(encoding, "MAX_TOOL_SET_BYTES", room)
        found = await batch(service.service, *tokens)
        assert found.responses == whole.responses
        assert list(found.tool_sets) == [whole.tool_sets[index] for index in kept], room


async def test_decisions_of_more_than_four_mebibytes_are_refused(service: Service) -> None:
    """By the field's name; ids must be absurdly long for that. A default client takes all other responses."""
    text = "\N{ROBOT FACE}" * 255
    workspace = small_workspace()
    workspace.tools.add(id=text, name=text, mcp_server=text)
    workspace.skills.add(id="absurd", name="Absurd", tool_ids=[text])
    for number in range(10):
        workspace.hats.add(id=f"{number}{'h' * 63}", name="Absurd", skill_ids=["absurd"], team_ids=["customer"])
    await service.operator.apply(workspace)
    issued = await service.operator.issue(description=text[:200])
    query = pb.AuthorizeRequest(token=issued.token, tool_id=text)
    size = 4 + (await service.service.authorize(issued.token, tool_id=text)).ByteSize()
    most = 2**22 // size
    response = await batch(service.service, *[query] * most)
    assert response.ByteSize() > 2**22 - 2 * size
    assert {each.granted.WhichOneof("reach") for each in response.responses} == {"tool"}
    refused = await refusal(batch(service.service, *[query] * (most + 1)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refused.fields) == ["requests"]


@GRPCIO_IF_SHORT
async def test_a_revocation_between_two_batches_shows_in_the_second(service: Service) -> None:
    """For keys in memory, one after the other."""
    some = await issued(service, 30)
    tokens = [each.token for each in some]
    await batch(service.service, *tokens)
    for count, each in enumerate(some, 1):
        await service.operator.revoke(key_id=each.key.id)
        response = await batch(service.service, *tokens)
        assert [each.HasField("granted") for each in response.responses] == [False] * count + [True] * (30 - count)


async def test_the_log_has_the_number_of_tokens_and_no_token(service: Service) -> None:
    """One line for the call."""
    good = await service.operator.issue()
    await batch(service.service, good.token, "no token", good.token)
    (line,) = service.log.calls("AuthorizationService/BatchAuthorize")
    assert (line["tokens"], line["denied"], line["caller"]) == ("3", "1", "service")
    assert good.token not in service.log.text()


async def test_a_cold_batch_is_read_by_a_few_queries(one: Process) -> None:
    """And a warm one by none."""
    tokens = [(await one.issue())[1] for _ in range(100)]
    queries = [AuthorizeQuery(token) for token in (*tokens, *tokens)]
    await one.authorizer.authorize_all(queries)
    one.memory.drop_all()
    lent = one.database.lent
    await one.authorizer.authorize_all(queries)
    assert one.database.lent - lent <= 3, "the first keys, those that came meanwhile, and their catalog"
    lent = one.database.lent
    decisions, _ = await one.authorizer.authorize_all(queries)
    assert one.database.lent == lent
    assert [each.denied for each in decisions] == [None] * 200


@pytest.mark.parametrize("leased", [True, False])
async def test_one_token_a_thousand_times_is_verified_once(database_url: str, *, leased: bool) -> None:
    """With a lease or without."""
    async with process(database_url, lease=LONG) as made:
        await made.apply()
        if leased:
            await made.follow()
        _, token = await made.issue()
        decisions, _ = await made.authorizer.authorize_all([AuthorizeQuery(token)] * 1000)
        assert [each.denied for each in decisions] == [None] * 1000
        assert made.hasher.checks == 1


async def test_a_tool_set_without_room_is_not_encoded(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys have large tool sets, a batch costs what its response has."""
    tokens = [(await one.issue(hat_ids=hat_ids))[1] for hat_ids in ((), ("everyone",), ("engineer",))]
    queries = [AuthorizeQuery(token) for token in tokens]
    _, body = await one.authorizer.authorize_all(queries)
    whole = pb.BatchAuthorizeResponse.FromString(body)
    assert len(whole.tool_sets) == 3
    one.snapshots.drop_all()
    encoded = []
    original = SharedToolSet.encode

    def encode(tools: SharedToolSet) -> EncodedToolSet:
        encoded.append(tools.version)
        return original(tools)

    monkeypatch.setattr(SharedToolSet, "encode", encode)
    monkeypatch.setattr(encoding, "MAX_TOOL_SET_BYTES", len(body) - whole.tool_sets[2].ByteSize() + 20)
    _, body = await one.authorizer.authorize_all(queries)
    assert [each.version for each in pb.BatchAuthorizeResponse.FromString(body).tool_sets] == encoded
    assert encoded == [each.version for each in whole.tool_sets[:2]]


async def test_a_batch_lets_other_calls_have_their_turn_by_time(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every five milliseconds, both while memory is asked and while the response is made."""
    _, token = await one.issue()
    await one.ask(token)
    ticks = itertools.count()
    monkeypatch.setattr(one.authorizer, "_clock", lambda: next(ticks) / 1000)
    found, turn = [], 0
    original = one.memory.find

    def find(text: str) -> Access | None:
        found.append(turn)
        return original(text)

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(one.memory, "find", find)
    running = asyncio.create_task(others())
    decisions, _ = await one.authorizer.authorize_all([AuthorizeQuery(token)] * 100)
    running.cancel()
    assert [each.denied for each in decisions] == [None] * 100
    assert max(Counter(found).values()) <= 6
    assert turn >= 2 * 100 // 6


async def test_a_batch_decides_as_single_calls_do(one: Process) -> None:
    """For random batches of keys of all kinds, with memory emptied now and then."""
    tokens: list[str] = ["", "no token", Token.mint(KeyType.USER, new_key_id()).reveal()]
    for fields in (
        {},
        {"hat_ids": ("everyone",)},
        {"hat_ids": ("engineer", "everyone")},
        {"type_": KeyType.USER, "user_id": "ada"},
        {"type_": KeyType.USER, "user_id": "bob"},
        {"type_": KeyType.USER, "user_id": "cyd", "hat_ids": ("engineer",)},
        {"type_": KeyType.RUNTIME},
    ):
        kept, token = await one.issue(**fields)
        revoked, other = await one.issue(**fields)
        await one.revoke(revoked)
        tokens += [token, other, Token.mint(KeyType.WORKSPACE, kept.id).reveal()]
    workspace = small_workspace()
    workspace.members.remove(part(workspace.members, "bob"))
    await one.apply(workspace)
    held = [(await one.ask(token)).granted.tool_set.version for token in tokens]
    versions = ["", "x" * 32, *filter(None, held)]
    names = ("web.search", "git.commit", "git.push", "slack.history", "nothing")
    tools = [None, None, None, *map(ToolId, names)]
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - noise, not a secret
    for _ in range(150):
        if source.random() < 0.2:
            one.memory.drop_all()
        queries = [
            AuthorizeQuery(source.choice(tokens), source.choice(tools), source.choice(versions))
            for _ in range(source.randrange(40))
        ]
        requests = [pb.AuthorizeRequest(token=each.token, tool_set_version=each.tool_set_version) for each in queries]
        answers_of_all, body = await one.authorizer.authorize_all(queries)
        response = pb.BatchAuthorizeResponse.FromString(body)
        assert response.SerializeToString() == body
        singles = [await one.decide(query) for query in queries]
        assert alone(response, requests) == [pb.AuthorizeResponse.FromString(each.body) for each in singles]
        assert [(each.key_id, each.denied) for each in answers_of_all] == [
            (each.key_id, each.denied) for each in singles
        ]
