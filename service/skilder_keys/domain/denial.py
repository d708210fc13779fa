"""Why Authorize denies a token. A denial is data, never an error."""

from dataclasses import dataclass
from enum import Enum

from skilder_keys.domain.ids import KeyId, ToolId
from skilder_keys.domain.tool_sets import ToolName


class DenialReason(Enum):
    """Why a token was denied. The value is a sentence for people."""

    MALFORMED = "This is not a token: its length, characters, prefix or checksum are wrong."
    UNKNOWN = "No key has this token."
    REVOKED = "The key was revoked."
    MEMBER_REMOVED = "The key's user is no longer a member of the workspace."
    WORKSPACE_GONE = "The key's workspace was deleted."
    TOOL_NOT_ALLOWED = "The key does not reach this tool."
    EXPIRED = "The key has expired."
    SUSPENDED = "The key is suspended."
    SOURCE_NOT_ALLOWED = "The key may not be used from this address."


@dataclass(frozen=True, slots=True)
class Denied:
    """The denial of a token.

    Attributes:
        key_id: The key of the token; None if no key has this token.
        tool: The tool that the key does not reach, as the request named it; None for other reasons.
        detail: A sentence that says more than the reason does; empty for none.
    """

    reason: DenialReason
    key_id: KeyId | None = None
    tool: ToolId | ToolName | None = None
    detail: str = ""

    @property
    def message(self) -> str:
        """Why, as a sentence for people."""
        return self.detail or self.reason.value


NO_SOURCE = "The key may be used from some networks only, and the request does not say from where: set source_ip."
"""The detail of a denial with SOURCE_NOT_ALLOWED where the address is missing."""
