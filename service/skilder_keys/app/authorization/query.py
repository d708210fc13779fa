"""What Authorize is asked, and what it decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import KeyId


@dataclass(slots=True)
class AuthorizeQuery:
    """What is asked about a token.

    Attributes:
        token: The token, as its holder presented it.
        tool_id: Ask about this tool only; empty for the whole tool set.
        tool_set_version: The version the asker holds; empty for none.
    """

    token: str
    tool_id: str = ""
    tool_set_version: str = ""

    def check(self, violations: Violations, path: str) -> None:
        """Notes the fields that are over their bounds. The token is not among them: it gets a verdict."""
        violations.foreign_id(f"{path}tool_id", self.tool_id, required=False)
        violations.identifier(f"{path}tool_set_version", self.tool_set_version, required=False)


@dataclass(slots=True)
class Decision:
    """A verdict, and the same as a serialised AuthorizeResponse.

    Attributes:
        key_id: The key the token verified to be of; None where it is no key's.
        denied: Why it is not good for what was asked; None where it is.
        body: The response.
    """

    key_id: KeyId | None
    denied: DenialReason | None
    body: bytes
