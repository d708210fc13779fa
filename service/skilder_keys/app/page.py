"""A page of a list, which may end before its last element, so that the response is not too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from skilder_keys.domain.paging import PageTokens


class Element(Protocol):
    """An element of a list, whose id is its position."""

    @property
    def id(self) -> object:
        """The id."""


Listed = TypeVar("Listed", bound=Element)


@dataclass(frozen=True, slots=True)
class Page(Generic[Listed]):
    """A page of a list, and the token of the next page wherever this one ends.

    Attributes:
        more: Whether there are elements after these.
        listing: The method, its filter and its actor, for which the token is valid.
    """

    elements: list[Listed]
    more: bool
    listing: str
    page_tokens: PageTokens

    def next_page_token(self, shown: int) -> str:
        """Return the token of the next page, if this one ends after `shown` elements; empty if it is the last."""
        if shown == len(self.elements) and not self.more:
            return ""
        return self.page_tokens.seal(self.listing, str(self.elements[shown - 1].id))
