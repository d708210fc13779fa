"""The guards of the Python client: who passes, who does not, and what an outage is."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from skilder.keys.v1.key_pb2 import HatLimit, NetworkLimit
from skilder_keys_client import AsyncClient, Client, Connection
from skilder_keys_client.guards.asgi import KeyMiddleware, granted_of
from skilder_keys_client.guards.asking import Asking
from skilder_keys_client.guards.fastapi import require_key
from skilder_keys_client.guards.grpc import AsyncKeyInterceptor, KeyInterceptor, granted
from tests.support.scripted_server import scripted
from tests.support.service import TOKENS
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.support.scripted_server import Answer
    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT

TOOL = "slack.post"


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncClient]:
    """A client of the service that may call Authorize."""
    async with AsyncClient(Connection(service.address, token=TOKENS["service"], plaintext=True)) as made:
        yield made


@pytest.fixture
async def tokens(service: Service) -> dict[str, str]:
    """Tokens of keys, by what they are good for."""
    await service.operator.apply(small_workspace())
    fields: dict[str, dict[str, Any]] = {
        "all": {},
        "other tools": {"hat_limit": HatLimit(hat_ids=["engineer"])},
        "this network": {"network_limit": NetworkLimit(networks=["127.0.0.0/8"])},
        "other networks": {"network_limit": NetworkLimit(networks=["192.0.2.0/24"])},
        "revoked": {},
    }
    issued = {name: await service.operator.issue(**each) for name, each in fields.items()}
    await service.operator.revoke(key_id=issued["revoked"].key.id)
    return {name: each.token for name, each in issued.items()}


def application(client: AsyncClient) -> FastAPI:
    """Return an application whose endpoint needs a key that reaches a tool."""
    app = FastAPI()

    @app.post("/post", dependencies=[Depends(require_key(client, tool_id=TOOL))])
    async def post(request: Request) -> str:
        tool = granted_of(request.scope).tool
        assert tool is not None
        return tool.tool.id

    return app


def guarded(client: AsyncClient) -> FastAPI:
    """Return the same behind the middleware."""
    app = FastAPI()

    @app.post("/post")
    async def post(request: Request) -> str:
        tool = granted_of(request.scope).tool
        assert tool is not None
        return tool.tool.id

    app.add_middleware(KeyMiddleware, client=client, tool_id=lambda scope: scope["path"].replace("/", "slack."))
    return app


APPLICATIONS = [application, guarded]
Headers = list[tuple[str, str]]


async def post(app: FastAPI, headers: Headers) -> httpx.Response:
    """Send a request."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
        return await http.post("/post", headers=headers)


@pytest.mark.parametrize("make", APPLICATIONS)
async def test_a_request_goes_on_with_a_good_key_alone(
    client: AsyncClient, tokens: dict[str, str], make: Callable[[AsyncClient], FastAPI]
) -> None:
    """With 401 for a bad key, and 403 for a good one that is not good for this."""
    app = make(client)

    def bearer(name: str) -> Headers:
        return [("Authorization", f"Bearer {tokens[name]}")]

    key = ("X-API-Key", tokens["all"])
    outcomes: list[tuple[Headers, int, str]] = [
        (bearer("all"), 200, ""),
        ([("authorization", f"bearer  {tokens['all']} ")], 200, ""),
        ([key], 200, ""),
        (bearer("this network"), 200, ""),
        (bearer("other tools"), 403, "TOOL_NOT_ALLOWED"),
        (bearer("other networks"), 403, "SOURCE_NOT_ALLOWED"),
        (bearer("revoked"), 401, "REVOKED"),
        ([("Authorization", "Bearer not-a-key")], 401, "MALFORMED"),
        ([], 401, ""),
        ([("Authorization", tokens["all"])], 401, ""),
        ([("Authorization", f"Basic {tokens['all']}")], 401, ""),
        ([("Authorization", "Bearer ")], 401, ""),
        ([key, key], 401, ""),
        ([key, *bearer("all")], 401, ""),
        ([*bearer("all"), *bearer("all")], 401, ""),
        ([("X-API-Key", f"{tokens['all']}, {tokens['all']}")], 401, ""),
    ]
    for headers, status, reason in outcomes:
        response = await post(app, headers)
        assert response.status_code == status, (headers, response.text)
        if status == 200:
            assert response.json() == TOOL
            continue
        body = response.json()
        body = body.get("detail", body)
        assert body["reason"] == reason
        assert response.headers["www-authenticate"] == f'Bearer error="{body["error"]}"'
        assert body["error"] == ("insufficient_scope" if status == 403 else "invalid_token")
        assert not any(token in response.text for token in tokens.values())


@pytest.mark.parametrize("make", APPLICATIONS)
@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        ({"status": {"code": "UNAVAILABLE", "reason": "BUSY", "retry_after_ms": 2500}, "repeat": True}, 503, "3"),
        ({"status": {"code": "INTERNAL"}}, 503, "1"),
        ({"hang": True}, 503, "1"),
        ({"status": {"code": "UNAUTHENTICATED", "reason": "UNAUTHENTICATED"}}, 500, None),
        ({"status": {"code": "PERMISSION_DENIED", "reason": "CALLER_NOT_ALLOWED"}}, 500, None),
        ({"message": {}}, 401, None),
    ],
)
async def test_an_outage_is_no_denial(
    make: Callable[[AsyncClient], FastAPI], answer: Answer, status: int, retry_after: str | None
) -> None:
    """Nor is it a denial of the agent that this server itself may not ask. What cannot be read is no grant."""
    async with scripted([answer]) as script, AsyncClient(Connection(script.address, plaintext=True)) as client:
        if "hang" in answer:
            app = FastAPI()
            app.add_middleware(KeyMiddleware, client=client, tool_id=TOOL, timeout=0.2)
        else:
            app = make(client)
        response = await post(app, [("X-API-Key", "a-token")])
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry_after)


async def test_other_kinds_of_connections(client: AsyncClient, tokens: dict[str, str]) -> None:
    """A WebSocket needs a key too; what an application does at its start needs none."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - the interface
        seen.append(scope["type"])

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event["type"])

    guard = KeyMiddleware(app, client, tool_id=TOOL)
    key = (b"X-Api-Key", tokens["all"].encode())
    for headers in ([], [key]):
        await guard({"type": "websocket", "headers": headers, "client": None}, receive, send)
    await guard({"type": "lifespan"}, receive, send)
    assert (seen, sent) == (["websocket", "lifespan"], ["websocket.close"])


def _handler(behaviors: dict[str, tuple[str, Callable[..., Any]]]) -> grpc.GenericRpcHandler:
    methods = {
        name: getattr(grpc, f"{kind}_rpc_method_handler")(behavior, bytes, bytes)
        for name, (kind, behavior) in behaviors.items()
    }
    return grpc.method_handlers_generic_handler("test.Tools", methods)


async def _outcomes(address: str, tokens: dict[str, str]) -> dict[str, list[str]]:
    """Call every kind of method with every token, and return what came."""
    found = {}
    # Streams send nothing: grpc.aio reports INTERNAL for a message to a call that has been refused already.
    channel: Any = grpc.aio.insecure_channel(address)
    async with channel:
        for name in [*tokens, None]:
            metadata: Sequence[tuple[str, str]] = (("authorization", f"Bearer {tokens[name]}"),) if name else ()
            found[name or "none"] = [
                await _outcome(channel.unary_unary("/test.Tools/Unary")(b"1", metadata=metadata)),
                await _outcome(channel.stream_unary("/test.Tools/StreamUnary")(iter(()), metadata=metadata)),
                await _outcome(_all(channel.unary_stream("/test.Tools/UnaryStream")(b"1", metadata=metadata))),
                await _outcome(_all(channel.stream_stream("/test.Tools/Stream")(iter(()), metadata=metadata))),
            ]
    return found


async def _all(responses: Any) -> list[bytes]:
    return [each async for each in responses]


async def _outcome(call: Any) -> str:
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return str((response if isinstance(response, bytes) else b"".join(response)).decode())


EXPECTED = {
    "all": "acme",
    "this network": "acme",
    "other tools": "PERMISSION_DENIED",
    "other networks": "PERMISSION_DENIED",
    "revoked": "UNAUTHENTICATED",
    "none": "UNAUTHENTICATED",
}


async def test_an_interceptor_for_asyncio(client: AsyncClient, tokens: dict[str, str]) -> None:
    """For all four kinds of methods."""

    async def unary(request: Any, context: Any) -> bytes:  # noqa: ARG001 - the interface
        return granted().key.workspace_id.encode()

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:  # noqa: ARG001 - the interface
        yield granted().key.workspace_id.encode()

    server = grpc.aio.server(interceptors=[AsyncKeyInterceptor(client, tool_id=TOOL)])
    server.add_generic_rpc_handlers(
        [
            _handler(
                {
                    "Unary": ("unary_unary", unary),
                    "StreamUnary": ("stream_unary", unary),
                    "UnaryStream": ("unary_stream", stream),
                    "Stream": ("stream_stream", stream),
                }
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        found = await _outcomes(f"127.0.0.1:{port}", tokens)
    finally:
        await server.stop(None)
    assert found == {name: [each] * 4 for name, each in EXPECTED.items()}


async def test_an_interceptor_for_threads(service: Service, tokens: dict[str, str]) -> None:
    """For all four kinds of methods."""

    def unary(request: Any, context: Any) -> bytes:  # noqa: ARG001 - the interface
        return granted().key.workspace_id.encode()

    def stream(request: Any, context: Any) -> Any:  # noqa: ARG001 - the interface
        yield granted().key.workspace_id.encode()

    with Client(Connection(service.address, token=TOKENS["service"], plaintext=True)) as client:
        server = grpc.server(ThreadPoolExecutor(4), interceptors=[KeyInterceptor(client, tool_id=TOOL)])
        server.add_generic_rpc_handlers(
            [
                _handler(
                    {
                        "Unary": ("unary_unary", unary),
                        "StreamUnary": ("stream_unary", unary),
                        "UnaryStream": ("unary_stream", stream),
                        "Stream": ("stream_stream", stream),
                    }
                )
            ]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        # grpcio logs each abort as an exception of the application.
        logging.getLogger("grpc._server").disabled = True
        try:
            found = await _outcomes(f"127.0.0.1:{port}", tokens)
        finally:
            await asyncio.to_thread(server.stop(None).wait)
            logging.getLogger("grpc._server").disabled = False
    assert found == {name: [each] * 4 for name, each in EXPECTED.items()}


@pytest.mark.parametrize("asking", [{"tool_id": ""}, {"mcp_server": ""}, {"tool_id": "a", "mcp_server": "b"}])
def test_a_guard_asks_about_something(asking: dict[str, Any]) -> None:
    """A part that is empty by mistake does not make it ask about less."""
    with pytest.raises(ValueError, match=r"empty|at most one"):
        Asking(**asking)


def test_a_misspelled_part_is_refused() -> None:
    """It would let every good key through."""
    with pytest.raises(TypeError):
        Asking(tol_id="slack.post")  # type: ignore[call-arg]
