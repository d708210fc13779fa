"""A page of keys, which may end before its last key, so that the response is not too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.paging import PageTokens


@dataclass(frozen=True, slots=True)
class KeyPage:
    """A page of keys, and the token of the next page wherever this one ends.

    Attributes:
        more: Whether there are keys after these.
        listing: The method, its filter and its actor, for which the token is valid.
    """

    keys: list[Key]
    more: bool
    listing: str
    page_tokens: PageTokens

    def next_page_token(self, shown: int) -> str:
        """Return the token of the next page, if this one ends after `shown` keys; empty if it is the last."""
        if shown == len(self.keys) and not self.more:
            return ""
        return self.page_tokens.seal(self.listing, str(self.keys[shown - 1].id))
