"""The HTTP endpoint for gateways, and a real nginx and Caddy with the example configurations in front of a service."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import asynccontextmanager
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

    from tests.support.gateways import Answer, Header
    from tests.support.service import Service

DEPLOY = Path(__file__).parents[2] / "deploy"
CALLER = ("x-skilder-caller", f"Bearer {TOKENS['service']}")
POST, HISTORY = "slack_post_message", "slack_get_channel_history"
_SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """A service with an endpoint for gateways, and a service that is behind the gateways."""

    service: Service
    endpoint: str
    upstream: int
    token: str
    key_id: str

    @property
    def bearer(self) -> Header:
        """The header with a key, which reaches `slack.history` but not `slack.post`."""
        return "authorization", f"Bearer {self.token}"


@pytest.fixture(scope="module", params=TRANSPORTS if LONG else ["grpcio"])
async def served(
    request: pytest.FixtureRequest, postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """A service with an endpoint for gateways."""
    if reason := why_unavailable(request.param):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gateway")
    with reserve_port("127.0.0.1:0") as endpoint:
        async with (
            new_database(postgres_url, template) as url,
            serving(url, folder, transport=request.param, gateway_listen=endpoint) as service,
            upstream() as port,
        ):
            await service.operator.apply(small_workspace())
            issued = await service.operator.issue(hat_limit={"hat_ids": ["customer-care"]})
            yield Served(service, endpoint, port, issued.token, issued.key.id)
            seen = service.log.text()
            assert all(token not in seen for token in (issued.token, TOKENS["service"]))


async def asked(
    served: Served,
    *headers: Header,
    kind: str = "forward",
    query: str = "",
    target: str = "/a?b=1",
    method: str = "GET",
    source: str = "127.0.0.1",
    body: bytes = b"",
) -> Answer:
    """Ask as a gateway does about a request with these headers."""
    names = {"forward": ("Method", "Uri", "For"), "nginx": ("Method", "URI", "")}[kind]
    prefix = "X-Forwarded-" if kind == "forward" else "X-Original-"
    told = [(f"{prefix}{names[0]}", method), (f"{prefix}{names[1]}", target)]
    told.append(("X-Forwarded-For", source) if kind == "forward" else ("X-Real-IP", source))
    return await send(served.endpoint, f"/check/{kind}{query}", CALLER, *told, *headers, body=body)


@pytest.mark.parametrize("kind", ["forward", "nginx"])
async def test_a_request_is_decided_as_for_envoy(served: Served, kind: str) -> None:
    """By the same steps, with what a gateway needs in headers."""
    answer = await asked(served, served.bearer, kind=kind)
    assert (answer.status, answer.body) == (200, "")
    assert answer.headers["x-skilder-key"] == served.key_id
    assert answer.headers["x-skilder-workspace"] == "acme"
    assert answer.headers["x-skilder-target"] == "/a?b=1"
    assert "x-skilder-user" not in answer.headers
    target = f"/a?b=%20&api_key={served.token}"
    answer = await asked(served, kind=kind, query="?key_parameter=api_key", target=target)
    assert answer.headers["x-skilder-target"] == "/a?b=%20"
    answer = await asked(served, kind=kind, target=target)
    assert (answer.status, answer.reason) == (401, "key_missing")
    assert answer.headers["x-skilder-reason"] == "key_missing"
    assert answer.headers["www-authenticate"] == 'Bearer realm="skilder"'
    answer = await asked(served, ("x-api-key", served.token), ("authorization", "Bearer a"), kind=kind)
    assert (answer.status, answer.reason) == (401, "key_ambiguous")
    assert (await asked(served, ("x-api-key", "no-token"), kind=kind)).reason == "malformed"


async def test_a_tool_is_checked_if_the_body_comes_along(served: Served) -> None:
    """And refused if it does not."""
    for tool, status in ((HISTORY, 200), (POST, 403)):
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}
        body, kind = json.dumps(message).encode(), ("content-type", "application/json")
        query = "?mcp_server=slack"
        answer = await asked(served, served.bearer, kind, query=query, method="POST", body=body)
        assert answer.status == status
        answer = await asked(served, served.bearer, kind, query=query, method="POST")
        assert (answer.status, answer.reason) == (400, "body_missing")


async def test_what_the_client_cannot_say(served: Served) -> None:
    """Identity headers, which the gateway might not remove; its address; what it asked for, in other headers."""
    for name in ("x-skilder-user", "X-Skilder-Key", "x_skilder_user", "x-skilder_of-tomorrow"):
        answer = await asked(served, served.bearer, (name, "eve"))
        assert (answer.status, answer.reason) == (403, "identity_header"), name
    far = await served.service.operator.issue(network_limit={"networks": ["198.51.100.0/24"]})
    key = ("x-api-key", far.token)
    assert (await asked(served, key, source="203.0.113.9, 198.51.100.7")).status == 200
    assert (await asked(served, key, source="198.51.100.7, 203.0.113.9")).reason == "source_not_allowed"
    assert (await asked(served, key, ("x-real-ip", "198.51.100.7"))).reason == "source_not_allowed"
    spoofed = [("x-original-uri", "/b"), ("x-original-method", "PUT")]
    assert (await asked(served, served.bearer, *spoofed)).headers["x-skilder-target"] == "/a?b=1"


async def test_what_is_no_decision_is_503(served: Served) -> None:
    """A gateway without a token, or one that does not tell what its client asked for, or asks for what is not known."""
    ask = [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/"), served.bearer]
    caller = ("x-skilder-caller", f"Bearer {TOKENS['service']}")
    for headers, reason in (
        (ask, "unauthenticated"),
        ([*ask, ("x-skilder-caller", "Bearer no-such-token-0123456789abcdef-0123456789")], "unauthenticated"),
        ([*ask, caller, caller], "unauthenticated"),
        ([*ask, ("x-skilder-caller", f"Bearer {TOKENS['auditor']}")], "caller_not_allowed"),
        ([*ask[1:], caller], "invalid_request"),
        ([*ask, ask[0], caller], "invalid_request"),
        ([*ask, ask[1], caller], "invalid_request"),
    ):
        answer = await send(served.endpoint, "/check/forward", *headers)
        assert (answer.status, answer.headers["x-skilder-reason"]) == (503, reason)
        assert answer.reason == "unavailable"
    for query in ("?mcpserver=slack", "?mcp_server=slack&mcp_server=git", "?mcp_server=", "?identity_headers=allow"):
        assert (await asked(served, served.bearer, query=query)).status == 503, query


async def test_only_http_that_is_needed_is_served(served: Served) -> None:
    """Anything else gets an error, or nothing, and the connection is closed."""
    ask = [CALLER, ("x-forwarded-method", "GET"), ("x-forwarded-uri", "/"), served.bearer]
    assert (await send(served.endpoint, "/check", *ask)).status == 404
    assert (await send(served.endpoint, "/check/forward", *ask, method="POST")).status == 404
    for bad in (
        ("a b", "c"),
        ("a ", "c"),
        (" a", "c"),
        ("a", "b\nc: d"),
        ("a", "b\0"),
        ("transfer-encoding", "chunked"),
    ):
        assert (await send(served.endpoint, "/check/forward", *ask, bad)).status == 400, bad
    assert (await send(served.endpoint, "/check/forward", *ask, length=2**30)).status == 400
    assert (await send(served.endpoint, "/check/forward#a b", *ask)).status == 400
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await send(served.endpoint, "/check/forward", *ask, ("a", "b" * 2**17))
    # A connection serves many requests.
    reader, writer = await asyncio.open_connection(*served.endpoint.rsplit(":", 1))
    text = "".join(f"{name}: {value}\r\n" for name, value in ask)
    for _ in range(3):
        writer.write(f"GET /check/forward HTTP/1.1\r\n{text}\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


async def test_calls_are_counted(served: Served) -> None:
    """As those of Envoy are."""
    before = await served.service.metric("calls_total", method="Authorization/Check", code="OK")
    await asked(served, served.bearer)
    assert await served.service.metric("calls_total", method="Authorization/Check", code="OK") == before + 1


@dataclass(frozen=True)
class Site:
    """A gateway in front of a service.

    Attributes:
        name: Of the program.
        address: Where the gateway listens.
        hop: Between the gateway and the endpoint.
    """

    name: str
    address: str
    hop: Hop


def _command(name: str, install: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = f"needs {name}, which was not found: {install}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@asynccontextmanager
async def _nginx(served: Served, hop: Hop, address: str, folder: Path) -> AsyncIterator[Path]:
    command = _command("nginx", "install it (Debian: apt-get install nginx-light)")
    ports = [("127.0.0.1:8080;", f"{address};"), ("127.0.0.1:9001;", f"127.0.0.1:{hop.port};")]
    ports.append(("127.0.0.1:8000$", f"127.0.0.1:{served.upstream}$"))
    (folder / "site.conf").write_text(configured(DEPLOY / "nginx" / "skilder-keys.conf", ports))
    (folder / "gateway-token.conf").write_text(f'proxy_set_header X-Skilder-Caller "Bearer {TOKENS["service"]}";\n')
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; {user} worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} include {folder}/site.conf; }}\n"
    )
    arguments = [command, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    async with program(arguments, address, folder) as log:
        yield log


@asynccontextmanager
async def _caddy(served: Served, hop: Hop, address: str, folder: Path) -> AsyncIterator[Path]:
    command = _command("caddy", "run `make tools`")
    port = address.rpartition(":")[2]
    ports = [("http://:8080", f"http://:{port}"), ("127.0.0.1:9001 {", f"127.0.0.1:{hop.port} {{")]
    ports.append(("127.0.0.1:8000", f"127.0.0.1:{served.upstream}"))
    (folder / "Caddyfile").write_text(configured(DEPLOY / "caddy" / "Caddyfile", ports))
    variables = {"SKILDER_KEYS_CALLER_TOKEN": TOKENS["service"], "HOME": str(folder)}
    async with program([command, "run", "--config", str(folder / "Caddyfile")], address, folder, **variables) as log:
        yield log


GATEWAYS = {"nginx": _nginx, "caddy": _caddy}


@pytest.fixture(scope="module", params=GATEWAYS if LONG else ["nginx"])
async def site(
    served: Served, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A gateway with its example configuration."""
    with reserve_port("127.0.0.1:0") as address:
        pass
    async with (
        Hop(served.endpoint).serving() as hop,
        GATEWAYS[request.param](served, hop, address, tmp_path_factory.mktemp(request.param)) as log,
    ):
        yield Site(request.param, address, hop)
        assert TOKENS["service"] not in log.read_text()


async def test_a_gateway_lets_a_good_key_through_as_its_identity(served: Served, site: Site) -> None:
    """From a header or the query; without the key."""
    for target, key in (
        ("/a?b=%20&a=1", served.bearer),
        ("/a?b=%20&a=1", ("X-API-Key", served.token)),
        (f"/a?b=%20&api_key={served.token}&a=1", ("x-other", "1")),
        (f"/a?b=%20&%61pi%5Fkey={served.token}&a=1", ("x_skilder_user", "eve")),
    ):
        answer = await send(site.address, target, key)
        assert answer.line.startswith("GET /a?b=%20&a=1 HTTP/1.")
        assert served.token not in answer.body
        ours = {name: value for name, value in answer.came.items() if "skilder" in name}
        assert len(ours.pop("x-skilder-tool-set-version")) == 1
        assert ours == {"x-skilder-key": [served.key_id], "x-skilder-workspace": ["acme"]}
    bob = await served.service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    answer = await send(site.address, "/a%2Fb/../c?d", ("x-api-key", bob.token), method="POST", body=b"hello")
    # Caddy decodes the path.
    path = {"nginx": "/a%2Fb/../c?d", "caddy": "/a/b/../c?d"}[site.name]
    assert answer.line.startswith(f"POST {path} HTTP/1.")
    assert answer.came["x-skilder-user"] == ["bob"]
    assert answer.came["content-length"] == ["5"]


async def test_a_gateway_refuses_anything_else(served: Served, site: Site) -> None:
    """With a challenge and JSON."""
    for target, headers, status, reason in (
        ("/", [], 401, "key_missing"),
        ("/", [("x-api-key", served.token), served.bearer], 401, "key_ambiguous"),
        (f"/?api_key={served.token}", [served.bearer], 401, "key_ambiguous"),
        ("/?mcp_server=slack&key_parameter=a", [("authorization", "Bearer x")], 401, "malformed"),
        ("/", [served.bearer, ("x-skilder-user", "eve")], 403, "identity_header"),
        ("/check/nginx", [], 401, "key_missing"),
    ):
        answer = await send(site.address, target, *headers)
        assert (answer.status, answer.reason) == (status, reason), target
        assert answer.headers["www-authenticate"].startswith('Bearer realm="skilder"')
        assert answer.headers["content-type"] == "application/json"
    assert (await send(site.address, "/", served.bearer, served.bearer)).status in {400, 401}
    # The place from which nginx asks cannot be asked for.
    inner = {"nginx": 404, "caddy": 200}[site.name]
    assert (await send(site.address, "/_skilder_keys", served.bearer)).status == inner
    far = await served.service.operator.issue(network_limit={"networks": ["198.51.100.0/24"]})
    claims = [("x-real-ip", "198.51.100.7"), ("x-forwarded-for", "198.51.100.7"), ("x-original-uri", "/a")]
    answer = await send(site.address, "/", ("x-api-key", far.token), *claims)
    assert (answer.status, answer.reason) == (403, "source_not_allowed")
    revoked = await served.service.operator.issue()
    key = ("x-api-key", revoked.token)
    assert (await send(site.address, "/", key)).status == 200
    await served.service.operator.revoke(key_id=revoked.key.id)
    assert (await send(site.address, "/", key)).reason == "revoked"


async def test_a_gateway_is_closed_during_an_outage(served: Served, site: Site) -> None:
    """Whether the service is slow or down."""
    for fault in (site.hop.hold, site.hop.fail):
        assert (await send(site.address, "/", served.bearer)).status == 200
        fault()
        answer = await send(site.address, "/", served.bearer)
        assert (answer.status, answer.reason) == (503, "unavailable")
        assert "www-authenticate" not in answer.headers
        site.hop.heal()
        async with asyncio.timeout(_SECONDS):
            while (await send(site.address, "/", served.bearer)).status != 200:
                await asyncio.sleep(0.05)
