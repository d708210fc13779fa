"""Decide whether a request may go on: find its key and its tool, and ask Authorize's use case about them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.networks import is_address
from skilder_keys.domain.token import TOKEN_PATTERN
from skilder_keys.domain.tool_sets import ToolName, ToolSetView, Variant, check_tool
from skilder_keys.rpc.gateway.credential import IDENTITY_PREFIX, presented
from skilder_keys.rpc.gateway.mcp import called_tool
from skilder_keys.rpc.gateway.request import Allowed, RefusedError, bad_request

if TYPE_CHECKING:
    from skilder_keys.app.authorization.authorizer import Authorizer
    from skilder_keys.app.authorization.query import Decision
    from skilder_keys.offload import Offload
    from skilder_keys.rpc.decision_log import DecisionLog
    from skilder_keys.rpc.gateway.credential import Presented
    from skilder_keys.rpc.gateway.request import GatewayRequest
    from skilder_keys.rpc.pipeline import Call

KEY, WORKSPACE, USER, VERSION = (
    f"{IDENTITY_PREFIX}{each}" for each in ("key", "workspace", "user", "tool-set-version")
)
"""The identity headers. They are set, or removed where there is nothing to say, whatever the client sent."""

_FORBIDDEN = {
    DenialReason.TOOL_NOT_ALLOWED: "insufficient_scope",
    DenialReason.SOURCE_NOT_ALLOWED: "insufficient_scope",
}
"""The denials of keys that are good, but not for this. All others say that the key is not good."""
_NO_TOOLS = encoding.tool_set_version(())
_LONG_BYTES = 2**13
"""The most bytes of a body that is parsed on the event loop."""
_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


class Gateway:
    """Decides about requests of gateways."""

    def __init__(self, authorizer: Authorizer, decisions: DecisionLog, offload: Offload) -> None:
        """Make the decider.

        Args:
            authorizer: The use case.
            decisions: Records the decisions.
            offload: Where long bodies are parsed.
        """
        self._authorizer = authorizer
        self._decisions = decisions
        self._offload = offload

    async def decide(self, request: GatewayRequest, call: Call) -> Allowed:
        """Let a request go on.

        Args:
            request: The request.
            call: The call by which the gateway asks.

        Raises:
            RefusedError: It may not go on. This says something about the request.
            KeysError: It cannot be decided. This says nothing about the request.
        """
        try:
            return await self._decided(request, call)
        except RefusedError as refused:
            call.notes["refused"] = call.denial = refused.reason
            raise

    async def _decided(self, request: GatewayRequest, call: Call) -> Allowed:
        # The key comes first, so that strangers learn nothing and cause little work.
        key = presented(request)
        query = AuthorizeQuery(key.token, source_ip=request.source_ip if is_address(request.source_ip) else "")
        if request.mcp_server is not None:
            await self._narrow(query, request, request.mcp_server)
        decision = await self._authorizer.authorize(
            query, call.caller.limits, call.context.time_remaining, call.caller.name
        )
        self._decisions.note(query, decision, call)
        if decision.denied is not None:
            call.routine = True  # the decision log has it
            raise _denial(decision.denied)
        if query.variant.mcp_server is not None and decision.tool_set_version == _NO_TOOLS:
            words = "The key reaches no tool of this MCP server."
            raise RefusedError(HTTPStatus.FORBIDDEN, "mcp_server_not_allowed", words, "insufficient_scope")
        call.routine = True
        return _allowed(key, decision)

    async def _narrow(self, query: AuthorizeQuery, request: GatewayRequest, server: str) -> None:
        """Narrow a query to the tool that a request calls on an MCP server, or to the tools of that server."""
        if not TOKEN_PATTERN.fullmatch(query.token):
            query.variant = Variant(server, ToolSetView.NONE)  # it is denied, whatever the body is
            return
        if len(request.body) > _LONG_BYTES:
            tool = await self._offload.run(called_tool, request)
        else:
            tool = called_tool(request)
        if tool is None:
            query.variant = Variant(server, ToolSetView.BASIC)
            return
        query.tool_name = ToolName(server, tool)
        violations = Violations()
        check_tool(violations, "", ToolName("checked", tool))
        if violations:
            raise bad_request("tool_name", "tools/call names a tool that no MCP server can have.")


def _denial(reason: DenialReason) -> RefusedError:
    if reason in _FORBIDDEN:
        return RefusedError(HTTPStatus.FORBIDDEN, reason.name.lower(), reason.value, _FORBIDDEN[reason])
    return RefusedError(HTTPStatus.UNAUTHORIZED, reason.name.lower(), reason.value, "invalid_token")


def _allowed(key: Presented, decision: Decision) -> Allowed:
    if decision.key is None:
        raise LookupError("a grant has a key")
    found = {
        KEY: str(decision.key.id),
        WORKSPACE: decision.key.workspace_id,
        USER: decision.key.user_id or "",
        VERSION: decision.tool_set_version,
    }
    headers = {name: header_value(value) for name, value in found.items() if value}
    remove = (*(each for each in key.remove if each not in headers), *(each for each in found if each not in headers))
    return Allowed(headers, tuple(dict.fromkeys(remove)), key.target)


def header_value(text: str) -> str:
    """Return a text as the value of a header: what is not visible ASCII is percent-encoded, and the percent sign."""
    return quote(text, safe=_VISIBLE)
