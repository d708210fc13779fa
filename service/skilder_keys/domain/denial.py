"""Why Authorize denies a token. A denial is data, never an error."""

from dataclasses import dataclass
from enum import Enum

from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.keys import Credential
from skilder_keys.domain.token import KeyType


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
    """The token is not good for what was asked. `key_id` is None where the token is no key's."""

    reason: DenialReason
    key_id: KeyId | None = None


def check_status(credential: Credential) -> DenialReason | None:
    """Return why a key with a verified token is not good, or None where it is."""
    key = credential.key
    if key.revocation is not None:
        return DenialReason.REVOKED
    if credential.workspace_deleted:
        return DenialReason.WORKSPACE_GONE
    if key.type is KeyType.USER and not credential.user_is_member:
        return DenialReason.MEMBER_REMOVED
    return None
