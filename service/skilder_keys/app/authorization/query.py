"""The queries of Authorize, and its decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import KeyId, ToolId


@dataclass(slots=True)
class AuthorizeQuery:
    """A query about a token.

    Attributes:
        token: The token, as its holder presented it.
        tool_id: The only tool that the query is about; None for the whole tool set. An empty text is rejected.
        tool_set_version: The version of the tool set that the caller has; empty for none.
    """

    token: str
    tool_id: ToolId | None = None
    tool_set_version: str = ""

    def check(self, violations: Violations, path: str) -> None:
        """Add the fields that are out of bounds. The token has no bound: an invalid one is denied."""
        if self.tool_id:
            violations.foreign_id(f"{path}tool_id", self.tool_id)
        elif self.tool_id is not None:
            violations.add(f"{path}tool_id", "is set but empty: name a tool, or leave it out to ask about everything")
        violations.identifier(f"{path}tool_set_version", self.tool_set_version, required=False)


@dataclass(slots=True)
class Decision:
    """A decision about a token.

    Attributes:
        key_id: The key of the verified token; None if no key has this token.
        denied: Why the token is denied; None if it is granted.
        body: The decision as a serialised AuthorizeResponse.
    """

    key_id: KeyId | None
    denied: DenialReason | None
    body: bytes
