"""What a query is about: whether its caller may ask that, and which tool set in memory has the answer.

And from where the token was presented: whether the key may be used there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.errors import ForeignMcpServerError
from skilder_keys.domain.networks import is_address

if TYPE_CHECKING:
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.memory import Access
    from skilder_keys.app.authorization.query import AuthorizeQuery
    from skilder_keys.app.authorization.tool_sets import SharedToolSet
    from skilder_keys.domain.access import CallerLimits


def require_scope(query: AuthorizeQuery, limits: CallerLimits) -> None:
    """Raise ForeignMcpServerError if a caller that is limited to MCP servers asks about others, or about all."""
    if limits.mcp_servers is None or query.tool_id is not None:
        return
    if query.mcp_server is None:
        raise ForeignMcpServerError("The caller is limited to MCP servers: name a tool or an MCP server.")
    if not limits.allow_server(query.mcp_server):
        raise ForeignMcpServerError


def within_networks(found: Access | Denied, query: AuthorizeQuery) -> Access | Denied:
    """Return what was found of a token, or that its key may not be used from the source of the query.

    That comes before anything about tools, so whoever has a stolen token learns nothing of them elsewhere.
    """
    if isinstance(found, Denied) or isinstance(found[1], DenialReason) or found[0].networks is None:
        return found
    return found if found[0].networks.allow(query.source_ip) else (found[0], DenialReason.SOURCE_NOT_ALLOWED)


def is_source_allowed(key: KnownKey, query: AuthorizeQuery) -> bool:
    """Return whether a query says from where its token comes in a valid form, and the key may be used there."""
    if key.networks is None:
        return not query.source_ip or is_address(query.source_ip)
    return key.networks.allow(query.source_ip)


def is_allowed(tools: SharedToolSet, query: AuthorizeQuery, limits: CallerLimits) -> bool:
    """Return whether a caller is allowed the MCP server that a query is about.

    That is the one that it names, or the tool's own server, whether the key reaches the tool or not. A tool that the
    workspace does not have, or has disabled, has no server, and is denied to everybody.
    """
    if limits.mcp_servers is None:
        return True
    if query.tool_id is None:
        return query.mcp_server is not None and limits.allow_server(query.mcp_server)
    server = tools.server_of(query.tool_id)
    return server is None or limits.allow_server(server)


def remembered(tools: SharedToolSet, query: AuthorizeQuery) -> SharedToolSet | None:
    """Return the tool set that a query for a variant is about, if it is in memory and the query needs no check.

    A query for the key alone is about the whole one, of which it needs nothing.
    """
    if query.is_about_a_tool:
        return None
    if query.has_variant:
        return tools.variants.get(query.variant)
    return tools if tools.servers.knows(query.variant.mcp_server) else None
