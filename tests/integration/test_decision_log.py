"""The decision log: a record of each denied token or, if that is wanted, of each decision."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token, hint
from skilder_keys.rpc.decision_log import FIRST, TOOLS, trace_id
from tests.support.collector import collecting
from tests.support.ids import new_key_id
from tests.support.service import serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = (("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),)


def records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, without what differs from run to run; the service has ended."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for each in found:
        assert each.pop("at").endswith("Z")
        assert each.pop("worker") == 0
        if "peer" in each:
            assert each.pop("peer").startswith("ipv4:127.0.0.1:")
    return found


async def epoch_of(database_url: str) -> int:
    """Return the number of the last change."""
    connection = await asyncpg.connect(database_url)
    try:
        epoch: int = await connection.fetchval("SELECT epoch FROM fence")
    finally:
        await connection.close()
    return epoch


async def test_each_denial_is_recorded_with_what_it_was_about(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """Of one call, of a batch and of a stream. A grant is not recorded, and the log of the service has no line."""
    path = tmp_path / "decisions.jsonl"
    unknown = Token.mint(KeyType.USER, KeyId(new_key_id()))
    async with serving(database_url, tmp_path, transport=transport, decision_log_file=path) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="ada")
        granted = await service.service.authorize(issued.token)
        before = await epoch_of(database_url)
        ask = pb.AuthorizeRequest(token=issued.token, tool_id="no.tool", source_ip="192.0.2.7")
        await service.service.authorization.Authorize(ask, metadata=TRACED)
        await service.service.denial("no token")
        await service.service.denial(unknown.reveal())
        await service.operator.revoke(key_id=issued.key.id)
        revoked = await epoch_of(database_url)
        batch = pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=issued.token, mcp_server="git")])
        await service.service.authorization.BatchAuthorize(batch)
        read = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=issued.token))
        assert [each.HasField("denied") async for each in service.service.authorization.ReadToolSet(read)] == [True]
        assert service.log.calls("AuthorizationService/Authorize") == []
    found = records(path)
    whose = {"key_id": issued.key.id, "workspace_id": "acme", "user_id": "ada", "caller": "service"}
    assert before < revoked
    assert found == [
        {
            "verdict": "denied",
            "reason": "TOOL_NOT_ALLOWED",
            **whose,
            "tool": "no.tool",
            "tool_set_version": granted.granted.tool_set.version,
            "source_ip": "192.0.2.7",
            "trace_id": TRACE,
            "epoch": before,
        },
        {"verdict": "denied", "reason": "MALFORMED", "caller": "service", "epoch": before},
        {
            "verdict": "denied",
            "reason": "UNKNOWN",
            "hint": hint(KeyType.USER, unknown.key_id),
            "caller": "service",
            "epoch": before,
        },
        {"verdict": "denied", "reason": "REVOKED", **whose, "mcp_server": "git", "epoch": revoked},
        {"verdict": "denied", "reason": "REVOKED", **whose, "epoch": revoked},
    ]
    assert issued.token not in path.read_text("utf-8")


async def test_with_all_each_grant_is_recorded_too(transport: str, database_url: str, tmp_path: Path) -> None:
    """Cold and from memory, for a tool by its id or its name, and each token of a batch."""
    path = tmp_path / "decisions.jsonl"
    async with serving(
        database_url, tmp_path, transport=transport, decision_log_file=path, decision_log="all"
    ) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        version = (await service.service.authorize(issued.token)).granted.tool_set.version
        for _ in range(20):
            await service.service.authorize(issued.token, tool_id="git.commit")
        batch = pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=issued.token)] * 3)
        await service.service.authorization.BatchAuthorize(batch)
        await service.service.read_tool_set(issued.token)
        assert await service.metric("decision_log_records_total", outcome="dropped") == 0
        epoch = await epoch_of(database_url)
    found = records(path)
    grant = {
        "verdict": "granted",
        "key_id": issued.key.id,
        "workspace_id": "acme",
        "caller": "service",
        "tool_set_version": version,
        "epoch": epoch,
    }
    assert found == [grant, *[{**grant, "tool": "git.commit"}] * 20, *[grant] * 4]


@GRPCIO_IF_SHORT
async def test_a_collector_gets_the_records_in_place_of_a_file(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """By OTLP; `test_decision_otlp` has the details."""
    with collecting() as collector:
        async with serving(
            database_url, tmp_path, transport=transport, decision_log_endpoint=collector.logs_endpoint
        ) as service:
            await service.service.authorization.Authorize(pb.AuthorizeRequest(token="no token"), metadata=TRACED)
    ((record, its),) = collector.log_records
    assert (record.trace_id.hex(), its["reason"], its["caller"]) == (TRACE, "MALFORMED", "service")


@GRPCIO_IF_SHORT
async def test_without_a_decision_log_nothing_is_recorded(transport: str, database_url: str, tmp_path: Path) -> None:
    """Not even a file is made."""
    path = tmp_path / "decisions.jsonl"
    async with serving(
        database_url, tmp_path, transport=transport, decision_log_file=path, decision_log="off"
    ) as service:
        assert await service.service.denial("no token") == "MALFORMED"
        assert await service.metric("denials_total", reason="MALFORMED") == 1
    assert not path.exists()


@GRPCIO_IF_SHORT
async def test_a_flood_of_one_kind_of_denial_is_counted_as_one(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """Those of another kind are recorded all the same, and no denial is lost."""
    path = tmp_path / "decisions.jsonl"
    async with serving(database_url, tmp_path, transport=transport, decision_log_file=path) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="ada")
        for _ in range(FIRST + 30):
            assert await service.service.denial("no token") == "MALFORMED"
        assert await service.operator.denial("no token") == "MALFORMED"
        for tool in ("one.tool", "another.tool"):
            assert await service.service.denial(issued.token, tool_id=tool) == "TOOL_NOT_ALLOWED"
        for _ in range(FIRST + 3):
            await service.service.denial(issued.token, tool_id="same.tool")
    found = records(path)
    of_key = found.pop()
    assert of_key.pop("peers").popitem()[1] == 3
    assert of_key == {
        "verdict": "denied",
        "reason": "TOOL_NOT_ALLOWED",
        "caller": "service",
        "key_id": issued.key.id,
        "workspace_id": "acme",
        "user_id": "ada",
        "tool": "same.tool",
        "repeated": 3,
    }
    last = found.pop()
    assert last.pop("peers").popitem()[1] == 30
    assert last == {"verdict": "denied", "reason": "MALFORMED", "caller": "service", "repeated": 30}
    kinds = [(each["reason"], each["caller"], each.get("tool")) for each in found]
    assert (
        kinds
        == [("MALFORMED", "service", None)] * FIRST
        + [
            ("MALFORMED", "operator", None),
            ("TOOL_NOT_ALLOWED", "service", "one.tool"),
            ("TOOL_NOT_ALLOWED", "service", "another.tool"),
        ]
        + [("TOOL_NOT_ALLOWED", "service", "same.tool")] * FIRST
    )


@GRPCIO_IF_SHORT
async def test_tools_that_are_made_up_are_one_kind(transport: str, database_url: str, tmp_path: Path) -> None:
    """After the first of a key. Those of another key are recorded all the same, and no denial is lost."""
    path = tmp_path / "decisions.jsonl"
    async with serving(database_url, tmp_path, transport=transport, decision_log_file=path) as service:
        await service.operator.apply(small_workspace())
        one, other = [await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="ada") for _ in range(2)]
        for number in range(TOOLS + FIRST + 5):
            assert await service.service.denial(one.token, tool_id=f"tool.{number}") == "TOOL_NOT_ALLOWED"
        await service.service.denial(one.token, tool_id="tool.0")
        await service.service.denial(other.token, tool_id="tool.0")
    found = records(path)
    left_out = found.pop()
    assert "tool" not in left_out
    assert (left_out["key_id"], left_out["reason"], left_out["repeated"]) == (one.key.id, "TOOL_NOT_ALLOWED", 5)
    assert [(each["key_id"], each["tool"]) for each in found] == [
        *((one.key.id, f"tool.{number}") for number in range(TOOLS + FIRST)),
        (one.key.id, "tool.0"),
        (other.key.id, "tool.0"),
    ]


@pytest.mark.parametrize(
    ("trace_parent", "expected"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later", TRACE),
        (None, ""),
        ("", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-00f067aa0ba902b7", ""),
        (f"00-{TRACE}-00f067aa0ba902b7-01,00-{TRACE}-00f067aa0ba902b7-01", ""),
    ],
)
def test_the_trace_is_that_of_a_valid_trace_parent(trace_parent: str | None, expected: str) -> None:
    """By W3C Trace Context; anything else is ignored."""
    assert trace_id(trace_parent) == expected
