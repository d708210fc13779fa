"""A page of a list, which may end before its last element, so that the response is not too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        end: The position after which the next page begins, if all elements are shown; None if this is the last page.
        listing: The method, its filter and its actor, for which the token is valid.
        positions: The position of each element, if it is not its id.
    """

    elements: list[Listed]
    end: str | None
    listing: str
    page_tokens: PageTokens
    positions: Sequence[str] | None = None

    def next_page_token(self, shown: int) -> str:
        """Return the token of the next page, if this one ends after `shown` elements; empty if it is the last."""
        end = self.end
        if shown < len(self.elements):
            end = str(self.elements[shown - 1].id) if self.positions is None else self.positions[shown - 1]
        return "" if end is None else self.page_tokens.seal(self.listing, end)


def first_of(found: list[Listed], limit: int) -> tuple[list[Listed], str | None]:
    """Return the first `limit` elements, and the position after which there are more; None if there are no more."""
    return found[:limit], str(found[limit - 1].id) if len(found) > limit else None
