"""What the service decided about a token. Only a grant of what was asked about is a grant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from skilder_keys_client.v1.authorization_service_pb2 import (
    DENIAL_REASON_MALFORMED,
    DENIAL_REASON_SOURCE_NOT_ALLOWED,
    DENIAL_REASON_TOOL_NOT_ALLOWED,
    DENIAL_REASON_UNSPECIFIED,
    TOOL_SET_VIEW_NONE,
    AuthorizeRequest,
    AuthorizeResponse,
    DenialReason,
)

if TYPE_CHECKING:
    from skilder_keys_client.v1 import authorization_service_pb2 as messages
    from skilder_keys_client.v1.authorization_service_pb2 import KeyIdentity, ToolGrant, ToolSet

_PREFIX = len("DENIAL_REASON_")


@dataclass(frozen=True, slots=True)
class Granted:
    """A token that is good for what was asked.

    Attributes:
        key: The key that the token belongs to.
        tool: The tool that was asked about; None if the query was about no single tool.
        tool_set: What the key reaches. None if the query was about one tool or the key alone, or if it was not sent:
            you have it already if `tool_set_version` is the version that you sent; else read it with `read_tool_set`.
        tool_set_version: Identifies what the key reaches; empty if the query was about the key alone.
    """

    key: KeyIdentity
    tool: ToolGrant | None = None
    tool_set: ToolSet | None = None
    tool_set_version: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """A token that is not good, or not for what was asked.

    Attributes:
        number: The number of the reason. Later versions of the service have more reasons than this package.
        message: The reason, for people.
        key_id: The key's id, if the token's secret was right; else empty.
    """

    number: DenialReason.ValueType
    message: str
    key_id: str = ""

    def __bool__(self) -> bool:
        """Return False, so that `if client.authorize(...)` lets nobody in by mistake."""
        return False

    @property
    def reason(self) -> str:
        """The reason, such as `REVOKED`; empty if this package does not know it."""
        return DenialReason.Name(self.number)[_PREFIX:] if self.number in DenialReason.values() else ""

    @property
    def is_token_invalid(self) -> bool:
        """Whether the token is at fault. If not, the key is good, but not for this tool or from this address."""
        return self.number not in {DENIAL_REASON_TOOL_NOT_ALLOWED, DENIAL_REASON_SOURCE_NOT_ALLOWED}


Decision: TypeAlias = Granted | Denied

MALFORMED = Denied(DENIAL_REASON_MALFORMED, "This is not a token: it is too long, or not text.")


def decide(asked: AuthorizeRequest, response: AuthorizeResponse) -> Decision:
    """Return the decision in a response."""
    if response.WhichOneof("verdict") == "denied":
        return denial(response.denied)
    if response.WhichOneof("verdict") is None:
        return _unfit("The response has neither a grant nor a denial.")
    if not response.granted.key.id:
        return _unfit("The service granted without a key.")
    return _grant(asked, response.granted)


def denial(denied: messages.Denied) -> Denied:
    """Return the denial in a message."""
    return Denied(denied.reason, denied.message, denied.key_id)


def _grant(asked: AuthorizeRequest, granted: messages.Granted) -> Decision:
    key = granted.key
    one_tool = asked.WhichOneof("scope") in {"tool_id", "tool_name"}
    key_alone = asked.view == TOOL_SET_VIEW_NONE
    match granted.WhichOneof("reach"):
        case "tool" if one_tool and _is_the_tool(asked, granted.tool):
            return Granted(key, tool=granted.tool, tool_set_version=granted.tool.tool_set_version)
        case "tool_set" if not one_tool and not key_alone:
            return Granted(key, tool_set=granted.tool_set, tool_set_version=granted.tool_set.version)
        case "tool_set_version" if not one_tool and not key_alone:
            return Granted(key, tool_set_version=granted.tool_set_version)
        case None if not one_tool and key_alone:
            return Granted(key)
        case "tool" | "tool_set" | "tool_set_version" | None:
            return _unfit("The service granted something else than was asked about.")
        case other:
            assert_never(other)


def _is_the_tool(asked: AuthorizeRequest, granted: ToolGrant) -> bool:
    tool = granted.tool
    if asked.WhichOneof("scope") == "tool_id":
        return asked.tool_id != "" and tool.id == asked.tool_id
    name = asked.tool_name
    return tool.id != "" and (tool.mcp_server, tool.name) == (name.mcp_server, name.name)


def _unfit(message: str) -> Denied:
    return Denied(DENIAL_REASON_UNSPECIFIED, message)
