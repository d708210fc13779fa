"""What becomes of an HTTP request whose key was checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from skilder_keys_client.decisions import Denied
from skilder_keys_client.errors import ServiceError
from skilder_keys_client.guards.asking import presented

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys_client.aio import AsyncClient
    from skilder_keys_client.decisions import Granted
    from skilder_keys_client.guards.asking import Asking, Call

_CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request does not go on.

    Attributes:
        status: 401 without a good key, 403 if it is not for this, 503 in an outage, 500 if this server may not ask.
        error: As in OAuth 2.0 (RFC 6750): `invalid_token` or `insufficient_scope`; or `unavailable`, or `internal`.
        reason: The reason of the denial or of the error; empty if there is none.
        message: For people.
        retry_after: In seconds, for an outage.
    """

    status: int
    error: str
    reason: str
    message: str
    retry_after: int | None = None

    @property
    def body(self) -> bytes:
        """The body of the response, in JSON."""
        return json.dumps({"error": self.error, "reason": self.reason, "message": self.message}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response that depend on the refusal."""
        headers = {"content-type": "application/json"}
        if self.status in {401, 403}:
            headers["www-authenticate"] = f'Bearer error="{self.error}"'
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers


NO_KEY = Refusal(401, "invalid_token", "", "Send one API key, as `Authorization: Bearer KEY` or as `x-api-key`.")


def refusal_of(outcome: Denied | ServiceError) -> Refusal:
    """Return what a denial or a failed call means for a request. An error is never a denial: the key may be good."""
    if isinstance(outcome, Denied):
        if outcome.is_token_invalid:
            return Refusal(401, "invalid_token", outcome.reason, outcome.message)
        return Refusal(403, "insufficient_scope", outcome.reason, outcome.message)
    # What is wrong with this server's own call is not the agent's business.
    if outcome.is_outage or outcome.code.name == _CANCELLED:
        wait = outcome.retry_after or timedelta(seconds=1)
        seconds = max(1, math.ceil(wait.total_seconds()))
        return Refusal(503, "unavailable", outcome.reason, "API keys cannot be checked now. Try again.", seconds)
    return Refusal(500, "internal", outcome.reason, "API keys cannot be checked here.")


async def checked(
    client: AsyncClient, asking: Asking[Call], call: Call, headers: Iterable[tuple[str, str]], peer: str
) -> Granted | Refusal:
    """Decide about a request."""
    token = presented(headers)
    if token is None:
        return NO_KEY
    try:
        decision = await client.authorize(asking.query(token, call, peer), timeout=asking.timeout)
    except ServiceError as error:
        return refusal_of(error)
    return refusal_of(decision) if isinstance(decision, Denied) else decision
