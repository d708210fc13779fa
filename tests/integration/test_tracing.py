"""Traces by OpenTelemetry: a span for each call, in the trace of its caller."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_service_pb2
from skilder_keys.worker import tracing
from tests.support.calls import get_key
from tests.support.collector import attributes, collecting
from tests.support.service import refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.collector import Collector
    from tests.support.service import Service

SERVER = 2
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traced(flags: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a caller that has a trace."""
    return (("traceparent", f"00-{TRACE}-{PARENT}-{flags}"), ("tracestate", "vendor=value"))


@asynccontextmanager
async def serving_traced(transport: str, database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Service, Collector]]:
    """Serve a workspace, and trace the calls of callers that have a trace. All spans are there when this has ended."""
    with collecting() as collector:
        async with serving(
            database_url, tmp_path, transport=transport, trace_endpoint=collector.endpoint, trace_ratio=0
        ) as service:
            await service.operator.apply(small_workspace())
            yield service, collector


async def test_each_call_is_a_span_in_the_trace_of_its_caller(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """Also one that fails, and a stream; a caller that does not sample is not traced. No token is in a span."""
    async with serving_traced(transport, database_url, tmp_path) as (service, collector):
        token = (await service.operator.issue()).token
        authorize = service.service.authorization.Authorize
        for flags in ("01", "00", "01"):
            await authorize(pb.AuthorizeRequest(token=token), metadata=traced(flags))
        read = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=token))
        assert [each async for each in service.service.authorization.ReadToolSet(read, metadata=traced("01"))]
        await refusal(authorize(pb.AuthorizeRequest(token=token, tool_id=""), metadata=traced("01")))
    calls = [each for each in collector.spans if each.kind == SERVER]
    found = [(each.name, attributes(each)) for each in calls]
    assert {each.trace_id.hex() for each in collector.spans} == {TRACE}
    assert {each.parent_span_id.hex() for each in calls} == {PARENT}
    assert {each.trace_state for each in collector.spans} == {"vendor=value"}
    # The token was not known before the first call.
    parts = [each for each in collector.spans if each.kind != SERVER]
    assert {each.name for each in parts} == {"database", "argon2"}
    assert {each.parent_span_id for each in parts} == {calls[0].span_id}
    assert not any(map(attributes, parts))
    assert all(each.start_time_unix_nano < each.end_time_unix_nano for each in collector.spans)
    assert token not in str(collector.spans)
    assert {(each["service.name"], each["skilder.worker"]) for each in collector.resources} == {("skilder-keys", 0)}
    authorized = {
        "rpc.system.name": "grpc",
        "rpc.method": "skilder.keys.v1.AuthorizationService/Authorize",
        "rpc.response.status_code": "OK",
        "skilder.caller": "service",
    }
    of_stream = authorized | {"rpc.method": "skilder.keys.v1.AuthorizationService/ReadToolSet"}
    failed = authorized | {"rpc.response.status_code": "INVALID_ARGUMENT", "error.type": "INVALID_REQUEST"}
    assert found == [
        ("AuthorizationService/Authorize", authorized),
        ("AuthorizationService/Authorize", authorized),
        ("AuthorizationService/ReadToolSet", of_stream),
        ("AuthorizationService/Authorize", failed),
    ]


@GRPCIO_IF_SHORT
async def test_calls_that_share_a_statement_have_spans_of_their_own_verification(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """Tokens that are new at the same time are read together; each is verified for its own call."""
    async with serving_traced(transport, database_url, tmp_path) as (service, collector):
        tokens = [(await service.operator.issue()).token for _ in range(6)]
        authorize = service.service.authorization.Authorize
        calls = (authorize(pb.AuthorizeRequest(token=token), metadata=traced("01")) for token in tokens)
        await asyncio.gather(*calls)
    calls_by_id = {each.span_id for each in collector.spans if each.kind == SERVER}
    verified = [each for each in collector.spans if each.name == "argon2"]
    assert len(calls_by_id) == len(verified) == len(tokens)
    assert {each.parent_span_id for each in verified} == calls_by_id


@GRPCIO_IF_SHORT
async def test_a_change_has_spans_of_what_it_waits_for(transport: str, database_url: str, tmp_path: Path) -> None:
    """Of the database, and of the wait until all processes know."""
    async with serving_traced(transport, database_url, tmp_path) as (service, collector):
        issued = await service.operator.issue()
        request = key_service_pb2.RevokeKeyRequest(key_id=issued.key.id)
        await service.operator.keys.RevokeKey(request, metadata=traced("01"))
    (call,) = (each for each in collector.spans if each.kind == SERVER)
    assert attributes(call)["skilder.caller"] == "operator"
    children = {each.name for each in collector.spans if each.parent_span_id == call.span_id}
    assert children == {"database", "fence wait"}


@GRPCIO_IF_SHORT
async def test_a_call_without_a_trace_begins_one(transport: str, database_url: str, tmp_path: Path) -> None:
    """Each its own, where all are sampled; a broken `traceparent` is like none."""
    with collecting() as collector:
        async with serving(database_url, tmp_path, transport=transport, trace_endpoint=collector.endpoint) as service:
            for metadata in ((), (("traceparent", "00-nonsense-00-01"),)):
                await service.service.authorization.Authorize(pb.AuthorizeRequest(token="x"), metadata=metadata)
        assert len({each.trace_id for each in collector.spans}) == len(collector.spans) == 2
        assert {each.parent_span_id for each in collector.spans} == {b""}


@GRPCIO_IF_SHORT
async def test_a_collector_that_is_away_harms_no_call(transport: str, database_url: str, tmp_path: Path) -> None:
    """Nor the end of the service."""
    with collecting() as collector:
        pass
    async with serving(database_url, tmp_path, transport=transport, trace_endpoint=collector.endpoint) as service:
        assert await service.service.denial("x") == "MALFORMED"
        await refusal(get_key(service.operator, "x"))


def test_without_the_libraries_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is optional."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(tracing.ExtraMissingError, match=r"skilder-keys\[otel\]"):
        tracing.OpenTelemetry("http://127.0.0.1:4318/v1/traces", 1.0, 0)
