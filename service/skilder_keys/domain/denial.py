"""Why Authorize denies a token. A denial is data, never an error."""

from dataclasses import dataclass
from enum import Enum

from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.keys import Credential, KeyState


class DenialReason(Enum):
    """Why a token was denied. The value is a sentence for people."""

    MALFORMED = "This is not a token: its length, characters, prefix or checksum are wrong."
    UNKNOWN = "No key has this token."
    REVOKED = "The key was revoked."
    MEMBER_REMOVED = "The key's user is no longer a member of the workspace."
    WORKSPACE_GONE = "The key's workspace was deleted."
    TOOL_NOT_ALLOWED = "The key does not reach this tool."


@dataclass(frozen=True, slots=True)
class Denied:
    """The denial of a token.

    Attributes:
        key_id: The key of the token; None if no key has this token.
    """

    reason: DenialReason
    key_id: KeyId | None = None


def check_status(credential: Credential) -> DenialReason | None:
    """Return why a key, whose token was verified, is denied; None if it may be used."""
    state = credential.key.state
    return None if state is KeyState.ACTIVE else DenialReason[state.name]
