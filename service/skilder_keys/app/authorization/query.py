"""The queries of Authorize, and its decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skilder_keys.domain.networks import check_address
from skilder_keys.domain.tool_sets import WHOLE, ToolName, ToolSetView, Variant, check_tool

if TYPE_CHECKING:
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import KeyId, ToolId


@dataclass(slots=True)
class AuthorizeQuery:
    """A query about a token.

    Attributes:
        token: The token, as its holder presented it.
        tool_id: The only tool that the query is about; None for a tool set. An empty text is rejected.
        tool_set_version: The version of the tool set that the caller has; empty for none.
        tool_name: The only tool that the query is about, by its name.
        variant: Which variant of the tool set it is about. An empty MCP server is rejected.
        source_ip: The address from which the token was presented; empty if the caller does not say it.
    """

    token: str
    tool_id: ToolId | None = None
    tool_set_version: str = ""
    tool_name: ToolName | None = None
    variant: Variant = WHOLE
    source_ip: str = ""

    @property
    def is_about_a_tool(self) -> bool:
        """Whether the query is about one tool."""
        return self.tool_id is not None or self.tool_name is not None

    @property
    def mcp_server(self) -> str | None:
        """The MCP server that the query names; None if it names none, and perhaps a tool by its id."""
        return self.variant.mcp_server if self.tool_name is None else self.tool_name.mcp_server

    @property
    def has_variant(self) -> bool:
        """Whether the query is about a tool set that is not the whole one."""
        return self.variant is not WHOLE and self.variant.view is not ToolSetView.NONE

    def check(self, violations: Violations, path: str) -> None:
        """Add the fields that are out of bounds. The token has no bound: an invalid one is denied."""
        server = self.variant.mcp_server
        tool = self.tool_name if self.tool_id is None else self.tool_id
        if tool is not None:
            check_tool(violations, path, tool)
        elif server:
            violations.foreign_id(f"{path}mcp_server", server)
        elif server is not None:
            words = "is set but empty: name an MCP server, or leave it out to ask about all of them"
            violations.add(f"{path}mcp_server", words)
        if self.is_about_a_tool and self.variant is not WHOLE:
            words = f"must not be TOOL_SET_VIEW_{self.variant.view.name}: a response about one tool has no tool set"
            violations.add(f"{path}view", words)
        violations.identifier(f"{path}tool_set_version", self.tool_set_version, required=False)
        check_address(violations, f"{path}source_ip", self.source_ip)


@dataclass(slots=True)
class Decision:
    """A decision about a token.

    Attributes:
        key_id: The key of the verified token; None if no key has this token.
        denied: Why the token is denied; None if it is granted.
        body: The decision as a serialised AuthorizeResponse.
        epoch: The change that the state which decided is in step with.
        key: What memory has of the key; None if no key has this token.
        tool_set_version: The version of the tool set that decided; empty if none did.
    """

    key_id: KeyId | None
    denied: DenialReason | None
    body: bytes
    epoch: int = 0
    key: KnownKey | None = field(default=None, compare=False)
    tool_set_version: str = ""
