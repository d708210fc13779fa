"""Find the one key of a request, and what has to be removed so that it does not go on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from skilder_keys.rpc.gateway.request import RefusedError, bad_request, plain_name

if TYPE_CHECKING:
    from skilder_keys.rpc.gateway.request import GatewayRequest

IDENTITY_PREFIX = "x-skilder-"
"""How the names of identity headers begin. No header of a client with such a name goes on."""
KEY_HEADERS = ("authorization", "x-api-key")
"""The headers that may hold the key. Neither goes on."""

MAX_HEADERS = 1000
MAX_PARAMETERS = 1000

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_VALUE = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # token68 of RFC 9110: no comma, so no second value
_SEVERAL = "The request has more than one key, or has it in more than one place: send one, in one place."
_IDENTITY = "The request has a header that only the gateway sets: send none that begins with x-skilder-."


@dataclass(frozen=True, slots=True)
class Presented:
    """The key that a request presents.

    Attributes:
        token: The key, as the client presented it.
        target: The path and the query without the key; None if they had none.
        remove: The names of the headers of the client that must not go on.
    """

    token: str = field(repr=False)
    target: str | None = field(repr=False)
    remove: tuple[str, ...]


def presented(request: GatewayRequest) -> Presented:
    """Return the key of a request, which must be in exactly one place and have one value there.

    Raises:
        RefusedError: There is no key, there are several, or it is not a possible value. Or there is an identity header
            where none may be.
    """
    if len(request.headers) > MAX_HEADERS:
        raise bad_request("too_many_headers", "The request has too many headers.")
    found, remove = _in_headers(request)
    in_query, target = _in_query(request)
    found += in_query
    if not found:
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "key_missing", "The request has no key.")
    if len(found) > 1:
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "key_ambiguous", _SEVERAL, "invalid_request")
    if found[0] is None:
        message = "The request has a key in a wrong form: send Authorization: Bearer KEY, or x-api-key: KEY."
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "key_malformed", message, "invalid_request")
    return Presented(found[0], target, remove)


def _in_headers(request: GatewayRequest) -> tuple[list[str | None], tuple[str, ...]]:
    """Return the keys in the headers, None for what cannot be one, and the names of the headers to remove."""
    found: list[str | None] = []
    remove = dict.fromkeys(KEY_HEADERS)
    for name, text in request.headers:
        plain = plain_name(name)
        if plain.startswith(IDENTITY_PREFIX):
            if request.refuses_identity:
                raise RefusedError(HTTPStatus.FORBIDDEN, "identity_header", _IDENTITY, "invalid_request")
            remove[name] = None
        if plain not in KEY_HEADERS:
            continue
        remove[name] = None
        value = text.strip(" \t")
        if name == "authorization":
            match = _BEARER.fullmatch(value)
            found.append(match[1] if match else None)
        elif name == "x-api-key":
            found.append(value if _VALUE.fullmatch(value) else None)
        else:
            # `x_api_key`: a second place, which whatever comes next may take for the first.
            found.append(None)
    return found, tuple(remove)


def _in_query(request: GatewayRequest) -> tuple[list[str | None], str | None]:
    """Return the keys in the query, None for what cannot be one, and the target without them, if there are any."""
    path, has_query, query = request.target.partition("?")
    if request.key_parameter is None or not has_query:
        return [], None
    if query.count("&") >= MAX_PARAMETERS:
        raise bad_request("too_many_parameters", "The request has too many query parameters.")
    wanted = plain_name(request.key_parameter)
    found: list[str | None] = []
    kept = []
    for part in query.split("&"):
        name, _, text = part.partition("=")
        # Names may be percent-encoded, which whatever comes next decodes.
        decoded = unquote_plus(name)
        if plain_name(decoded.strip()) != wanted:
            kept.append(part)
            continue
        value = unquote_plus(text)
        found.append(value if decoded == request.key_parameter and _VALUE.fullmatch(value) else None)
    if not found:
        return [], None
    return found, f"{path}?{'&'.join(kept)}" if kept else path
