"""What Authorize finds about a token. A verdict is data, never an error."""

from dataclasses import dataclass
from enum import Enum

from service.domain.ids import KeyId
from service.domain.keys import Credential, Key
from service.domain.permissions import ToolPath
from service.domain.token import KeyType
from service.domain.workspace import Tool


class DenialReason(Enum):
    """Why a token was denied; the value is the sentence for people."""

    MALFORMED = "This is not a token: its length, characters, prefix or checksum are wrong."
    UNKNOWN = "No key has this token."
    REVOKED = "The key was revoked."
    MEMBER_REMOVED = "The key's user is no longer a member of the workspace."
    WORKSPACE_GONE = "The key's workspace was deleted."
    TOOL_NOT_ALLOWED = "The key does not reach this tool."


@dataclass(frozen=True, slots=True)
class Denied:
    """The token is not good for what was asked. `key_id` is None where the token did not prove right."""

    reason: DenialReason
    key_id: KeyId | None = None


@dataclass(frozen=True, slots=True)
class ToolGrant:
    """The one tool asked about may be called."""

    tool: Tool
    paths: tuple[ToolPath, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """The token is good. What it reaches is in the encoded answer."""

    key: Key


Verdict = Granted | Denied


def standing(credential: Credential) -> DenialReason | None:
    """Tells why a proven key is not good, or None where it is."""
    key = credential.key
    if key.revocation is not None:
        return DenialReason.REVOKED
    if credential.workspace_deleted:
        return DenialReason.WORKSPACE_GONE
    if key.type is KeyType.USER and not credential.user_is_member:
        return DenialReason.MEMBER_REMOVED
    return None
