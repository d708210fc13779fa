"""An HTTP request, as a gateway describes it, and what is decided about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """An HTTP request. What may hold a key is not in its repr.

    Attributes:
        method: The method, in upper case.
        target: The path and the query, as the client sent them.
        headers: The names in lower case and the values, in their order. Values of a name that came more than once may
            be one value, joined by commas.
        body: The body, as far as the gateway sent it.
        is_whole: Whether nothing says that the gateway sent only a part of the body.
        source_ip: The address of the client; empty if it is not known.
        mcp_server: The MCP server that the request goes to; None if it does not go to one.
        key_parameter: The query parameter that may hold the key; None for none.
        refuses_identity: Whether a request with an identity header of the client is refused, for gateways that cannot
            remove what they are told to.
    """

    method: str
    target: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    is_whole: bool = True
    source_ip: str = ""
    mcp_server: str | None = None
    key_parameter: str | None = None
    refuses_identity: bool = False

    def values(self, name: str) -> list[str]:
        """Return the values of a header, without spaces around them."""
        return [value.strip(" \t") for each, value in self.headers if each == name]


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may go on, after some changes.

    Attributes:
        headers: The headers to set, in place of the client's.
        remove: The names of the headers to remove.
        target: The path and the query to send on; None if they stay as they are.
    """

    headers: Mapping[str, str]
    remove: tuple[str, ...]
    target: str | None = None


class RefusedError(Exception):
    """The request does not go on. The message is for its client.

    Attributes:
        status: The status of the response.
        reason: Why, for programs.
        error: The error of RFC 6750, section 3.1, in the header WWW-Authenticate; empty for none.
    """

    def __init__(self, status: HTTPStatus, reason: str, message: str, error: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.error = error

    @property
    def challenge(self) -> str | None:
        """The value of the header WWW-Authenticate; None if a key would not help."""
        if self.status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return None
        return f'Bearer realm="skilder", error="{self.error}"' if self.error else 'Bearer realm="skilder"'


def bad_request(reason: str, message: str) -> RefusedError:
    """Return the error for a request that cannot be checked."""
    return RefusedError(HTTPStatus.BAD_REQUEST, reason, message)


def plain_name(name: str) -> str:
    """Return the name of a header or a parameter as a careless server reads it.

    Some take `x_api_key` or `X.Api.Key` for `x-api-key`, as in CGI all of them become HTTP_X_API_KEY.
    """
    return _NOT_ALPHANUMERIC.sub("-", name.casefold())
