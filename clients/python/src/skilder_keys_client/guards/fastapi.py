"""A dependency for single endpoints of FastAPI, which also works for Starlette's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from starlette.requests import HTTPConnection

from skilder_keys_client.guards.asgi import headers_of, keep, peer_of
from skilder_keys_client.guards.asking import Asking
from skilder_keys_client.guards.http import Refusal, checked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skilder_keys_client.aio import AsyncClient
    from skilder_keys_client.decisions import Granted


def require_key(client: AsyncClient, **asking: Any) -> Callable[[HTTPConnection], Awaitable[Granted]]:  # noqa: ANN401 - as Asking has them
    """Return a dependency that raises HTTPException unless the request has a key that is good for it.

    Args:
        client: The client that decides.
        asking: Fields of Asking, whose functions get the request.
    """
    what: Asking[HTTPConnection] = Asking(**asking)

    async def granted(connection: HTTPConnection) -> Granted:
        scope = connection.scope
        outcome = await checked(client, what, connection, headers_of(scope), peer_of(scope))
        if isinstance(outcome, Refusal):
            detail = {"error": outcome.error, "reason": outcome.reason, "message": outcome.message}
            raise HTTPException(outcome.status, detail, outcome.headers)
        keep(scope, outcome)
        return outcome

    # FastAPI reads the annotations, which are text in this file, to know what to pass.
    granted.__annotations__ = {"connection": HTTPConnection}
    return granted
