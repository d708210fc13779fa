"""What docs/service-config.json makes gRPC's clients do: retry what can be sent again, and nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from tests.docs.links import ROOT
from tests.support.calls import METHODS, list_keys
from tests.support.service import TOKENS, refusal
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

SERVICE_CONFIG = json.loads((ROOT / "docs" / "service-config.json").read_text("utf-8"))
CONFIGS = SERVICE_CONFIG["methodConfig"]
ATTEMPTS = CONFIGS[0]["retryPolicy"]["maxAttempts"]
# On a machine that is busy with other tests, a call may take longer than the deadlines in the file.
WITH_TIME = SERVICE_CONFIG | {"methodConfig": [config | {"timeout": "60s"} for config in CONFIGS]}

# The tests count calls, and make the database fail.
pytestmark = pytest.mark.own_service


@pytest.fixture
async def client(service: Service) -> Client:
    """An operator whose channel has the service config."""
    return await service.client(TOKENS["operator"], options=[("grpc.service_config", json.dumps(WITH_TIME))])


async def fail_updates(sql: asyncpg.Connection[Any], times: int) -> None:
    """Make this many changes of keys fail, first uses included, with the error of a Postgres that shuts down."""
    await sql.execute(
        f"""
        CREATE SEQUENCE failure;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('failure') <= {times} THEN
                RAISE EXCEPTION 'no' USING ERRCODE = '57P01';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON key FOR EACH ROW EXECUTE FUNCTION fail();
        """
    )


async def counted(service: Service, method: str, code: str) -> float:
    """Return how many calls of a method ended with a code, as the service counts."""
    return await service.metric("calls_total", method=method, code=code)


def test_every_method_is_configured_once() -> None:
    """A method that is left out would have no deadline."""
    named = [f"{name['service']}/{name['method']}" for config in CONFIGS for name in config["name"]]
    assert sorted(named) == sorted(f"skilder.keys.v1.{method}" for method in METHODS)


def test_the_page_says_what_the_file_does() -> None:
    """Its table has the deadline of each method, and says which ones the policy retries."""
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| (\d+) s \| (Always|Not)", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        (name["method"], config["timeout"].removesuffix("s"), "Always" if "retryPolicy" in config else "Not")
        for config in CONFIGS
        for name in config["name"]
    )


def test_a_method_is_retried_if_the_contract_says_that_it_may_be() -> None:
    """By its option `idempotency_level`."""
    retried = {
        f"{name['service']}/{name['method']}"
        for config in CONFIGS
        if "retryPolicy" in config
        for name in config["name"]
    }
    assert retried == {
        f"skilder.keys.v1.{name}"
        for name, method in METHODS.items()
        if method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    }


async def test_a_retry_gets_the_response(service: Service, client: Client, sql: asyncpg.Connection[Any]) -> None:
    """The service is unavailable twice; the caller makes one call and sees only the success."""
    issued = await client.issue()
    await fail_updates(sql, 2)
    assert (await client.authorize(issued.token)).HasField("granted")
    assert await counted(service, "AuthorizationService/Authorize", "UNAVAILABLE") == 2
    assert await counted(service, "AuthorizationService/Authorize", "OK") == 1


@GRPCIO_IF_SHORT
async def test_retries_end(service: Service, client: Client, sql: asyncpg.Connection[Any]) -> None:
    """After the last attempt the caller gets the error with its details."""
    issued = await client.issue()
    await fail_updates(sql, 1000)
    for call, method in (
        (client.authorize(issued.token), "AuthorizationService/Authorize"),
        (client.revoke(key_id=issued.key.id), "KeyService/RevokeKey"),
    ):
        assert (await refusal(call)).reason == "UNAVAILABLE"
        assert await counted(service, method, "UNAVAILABLE") == ATTEMPTS


@GRPCIO_IF_SHORT
async def test_a_call_that_cannot_be_repeated_is_not_retried(
    service: Service, client: Client, sql: asyncpg.Connection[Any]
) -> None:
    """A second IssueKey could issue a second key."""
    await fail_updates(sql, 1000)
    assert (await refusal(client.issue())).reason == "UNAVAILABLE"
    assert await counted(service, "KeyService/IssueKey", "UNAVAILABLE") == 1


@GRPCIO_IF_SHORT
async def test_other_errors_are_not_retried(service: Service, client: Client) -> None:
    """A retry would get the same error."""
    assert (await refusal(list_keys(client, workspace_id="nowhere"))).code is grpc.StatusCode.NOT_FOUND
    assert await counted(service, "KeyService/ListKeys", "NOT_FOUND") == 1
