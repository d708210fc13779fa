"""What a query is about: whether its caller may ask that, and which tool set in memory has the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.errors import ForeignMcpServerError

if TYPE_CHECKING:
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
