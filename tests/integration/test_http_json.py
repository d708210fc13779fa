"""The methods as HTTP and JSON, by Envoy: the same decisions, errors, limits and logs as by gRPC."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.docs.links import ROOT
from tests.support.gateways import send
from tests.support.lengths import ONLY_IF_LONG
from tests.support.process import serving_process
from tests.support.service import TOKENS, serving
from tests.support.transport import why_unavailable
from tests.support.walk import reader_variables, shell, steps
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Service

_JSON = ("content-type", "application/json")
_OPERATOR = ("authorization", f"Bearer {TOKENS['operator']}")


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """A service with JSON and the workspace acme."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    async with serving(database_url, tmp_path, transport="envoy", http_json=True) as service:
        await service.operator.apply(small_workspace())
        yield service


async def ask(
    service: Service,
    verb: str,
    path: str,
    body: object = None,
    *,
    caller: tuple[str, str] = _OPERATOR,
    status: int = 200,
) -> dict[str, Any]:
    """Send a request and return the body of its response."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [caller] if body is None else [caller, _JSON]
    answer = await send(service.address, path, *headers, method=verb, body=content)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    parsed: dict[str, Any] = json.loads(answer.body)
    return parsed


async def test_a_key_lives_and_dies(served: Service) -> None:
    """By issue, list, authorize, rotate and revoke; gRPC sees the same on the same port."""
    new = {"type": "KEY_TYPE_WORKSPACE", "description": "Bot", "unlimited": ["KEY_LIMIT_HATS"]}
    issued = await ask(served, "POST", "/v1/workspaces/acme/keys", new)
    key_id, query = issued["key"]["id"], {"token": issued["token"], "toolId": "slack.post"}
    listed = await ask(served, "GET", "/v1/workspaces/acme/keys?pageSize=5&filter.states=KEY_STATE_ACTIVE")
    assert [key["id"] for key in listed["keys"]] == [key_id]
    granted = await ask(served, "POST", "/v1/authorize", query)
    assert granted["granted"]["tool"]["tool"]["id"] == "slack.post"
    rotated = await ask(served, "POST", f"/v1/keys/{key_id}:rotate", {"grace": "3600s"})
    revoked = await ask(served, "POST", "/v1/keys:revoke", {"token": rotated["token"], "scope": "REVOKE_SCOPE_FAMILY"})
    assert revoked["otherKeyIds"] == [key_id]
    denied = await ask(served, "POST", "/v1/authorize:batch", {"requests": [query, {"token": "x"}]})
    reasons = [each["denied"]["reason"] for each in denied["responses"]]
    assert reasons == ["DENIAL_REASON_REVOKED", "DENIAL_REASON_MALFORMED"]
    assert (await served.operator.authorize(issued["token"])).denied.key_id == key_id


async def test_requests_are_refused_as_by_grpc(served: Service) -> None:
    """What is wrong with them, who sends them, their length, and their form."""
    await _errors_are_statuses_with_details(served)
    await _limits_hold(served)
    await _callers_are_who_they_are(served)
    await _only_json_is_taken(served)
    await _no_token_is_logged(served)


async def _errors_are_statuses_with_details(served: Service) -> None:
    """As a google.rpc.Status, with the HTTP status that belongs to the code."""
    unknown = await ask(served, "POST", "/v1/authorize", {"token": "x", "nope": 1}, status=400)
    assert unknown["code"] == 3
    assert unknown["details"][0]["reason"] == "UNKNOWN_FIELD"
    missing = await ask(served, "GET", "/v1/keys/019ac1b2-8a40-7c3e-9d15-6f2b7a90c4e1", status=404)
    assert missing["details"][0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "KEY_NOT_FOUND",
        "domain": "keys.skilder",
    }
    empty = await ask(served, "POST", "/v1/authorize", {"token": "x", "toolId": ""}, status=400)
    assert empty["details"][1]["fieldViolations"][0]["field"] == "tool_id"
    await ask(served, "GET", "/v1/nope", status=404)
    await ask(served, "POST", "/v1/workspaces", {}, status=405)


async def _limits_hold(served: Service) -> None:
    """A body is as long as its message may be, twice at most, and the message no longer than by gRPC."""
    for length in (70_000, 140_000, 5_000_000):
        long = await ask(served, "POST", "/v1/authorize", {"token": "x" * length}, status=413)
        assert long["details"][0]["reason"] == "MESSAGE_TOO_LONG"


async def _callers_are_who_they_are(served: Service) -> None:
    """Without a token nobody, and with one no more than by gRPC."""
    nobody = await ask(served, "POST", "/v1/authorize", {}, caller=("x-nothing", ""), status=401)
    assert nobody["details"][0]["reason"] == "UNAUTHENTICATED"
    service = ("authorization", f"Bearer {TOKENS['service']}")
    refused = await ask(served, "GET", "/v1/workspaces", caller=service, status=403)
    assert refused["details"][0]["reason"] == "CALLER_NOT_ALLOWED"


async def _only_json_is_taken(served: Service) -> None:
    """What a page of another site can send without being asked is refused."""
    for status, *headers in (
        (415,),
        (415, ("content-type", "text/plain")),
        (415, ("content-type", "application/x-www-form-urlencoded")),
        (415, _JSON, ("content-encoding", "gzip")),
        (200, ("content-type", 'application/json; charset="UTF-8"')),
    ):
        answer = await send(served.address, "/v1/authorize", _OPERATOR, *headers, method="POST", body=b'{"token":"x"}')
        assert answer.status == status, headers


async def _no_token_is_logged(served: Service) -> None:
    """Not even one that stands where it must not."""
    token = (await served.operator.issue()).token
    for path, body in (
        (f"/v1/authorize?token={token}", {}),
        ("/v1/authorize", {"token": [token]}),
        ("/v1/authorize", {token: token}),
    ):
        answer = await send(served.address, path, _OPERATOR, _JSON, method="POST", body=json.dumps(body).encode())
        assert answer.status == 400
        assert token not in answer.body
    assert token not in served.log.text()


async def test_without_the_option_there_is_no_http(database_url: str, tmp_path: Path) -> None:
    """Envoy speaks HTTP/2 alone then."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    async with serving(database_url, tmp_path, transport="envoy") as service:
        reader, writer = await asyncio.open_connection(*service.address.rsplit(":", 1))
        writer.write(b"GET /v1/workspaces HTTP/1.1\r\nhost: example.com\r\n\r\n")
        assert b"HTTP/1" not in await reader.read(-1)
        writer.close()
        await writer.wait_closed()


@ONLY_IF_LONG
@pytest.mark.long
@pytest.mark.usefixtures("with_postgres_files")
def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    """One after another, with the output that docs/http.md shows."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    walk = steps((ROOT / "docs" / "http.md").read_text("utf-8"))
    assert len(walk) == 2
    with (
        serving_process(tmp_path, transport="envoy", SKILDER_KEYS_HTTP_JSON="true") as server,
        shell(tmp_path, reader_variables(server.address)) as session,
    ):
        for step in walk:
            session.take(step.at(server.address))
