"""A middleware for ASGI applications, such as those of FastAPI, Starlette and Litestar."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from skilder_keys_client.guards.asking import Asking
from skilder_keys_client.guards.http import Refusal, checked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys_client.aio import AsyncClient
    from skilder_keys_client.decisions import Granted

# As frameworks have them, which differ in the types of scopes and messages.
Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEPT = "skilder_keys_client.granted"


class KeyMiddleware:
    """Lets a request or a WebSocket through only with a key that is good for it.

    Args:
        app: The application. `granted_of` returns what was granted to it.
        client: The client that decides.
        asking: Fields of Asking, whose functions get the scope.
    """

    def __init__(self, app: Application, /, client: AsyncClient, **asking: Any) -> None:  # noqa: ANN401 - as Asking has them
        self._app = app
        self._client = client
        self._asking: Asking[Scope] = Asking(**asking)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        outcome = await checked(self._client, self._asking, scope, headers_of(scope), peer_of(scope))
        if isinstance(outcome, Refusal):
            await _refuse(outcome, scope, receive, send)
        else:
            keep(scope, outcome)
            await self._app(scope, receive, send)


def headers_of(scope: Scope) -> Iterator[tuple[str, str]]:
    """Return the headers of a connection, with their names in lower case."""
    for name, value in scope["headers"]:
        yield name.decode("latin-1").lower(), value.decode("latin-1")


def peer_of(scope: Scope) -> str:
    """Return the address of a connection's peer; empty if there is none."""
    return str(scope["client"][0]) if scope.get("client") else ""


def keep(scope: Scope, granted: Granted) -> None:
    """Keep what was granted to a connection."""
    scope[_KEPT] = granted


def granted_of(scope: Scope) -> Granted:
    """Return what was granted to a connection that was let through.

    Raises:
        LookupError: No guard has let it through.
    """
    if _KEPT not in scope:
        raise LookupError("no guard has let this connection through")
    granted: Granted = scope[_KEPT]
    return granted


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        # Before it is accepted: the server responds with 403.
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.error})
        return
    headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    headers.append((b"content-length", str(len(refusal.body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})
