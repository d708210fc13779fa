"""A key with its token, which is shown once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys_client.v1.key_pb2 import Key


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made.

    Attributes:
        key: The key.
        token: Its token. Hand it to its holder, or write it to a secret store: nothing returns it again.
        predecessor: The key that it follows, if it was made by a rotation.
    """

    key: Key
    token: str = field(repr=False)
    predecessor: Key | None = None
