"""Search by words, as people type them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.texts import DEFAULT_IGNORABLE

if TYPE_CHECKING:
    from skilder_keys.domain.fields import Violations

MAX_SEARCH = 255
"""The most characters of a text to search for: as many as the longest id has."""

_IGNORED = re.compile(f"[{DEFAULT_IGNORABLE}]")


def folded(text: str) -> str:
    """Return a text in the form in which searches compare it.

    It is Unicode's caseless match of compatible characters (Unicode 17, section 3.13, D146): equal are upper and lower
    case, composed and decomposed characters, full-width and normal ones, `ß` and `ss`, with and without joiners.
    """
    if text.isascii():
        return text.lower()
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", _IGNORED.sub("", once).casefold())


def check_search(violations: Violations, field: str, text: str) -> None:
    """Check a text to search for; it may be empty."""
    violations.text(field, text, maximum=MAX_SEARCH, required=False)


@dataclass(frozen=True, slots=True)
class Words:
    """Words that must all occur, as parts of words too. No character has a special meaning."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Words | None:
        """Return the words of a text, which are divided by white space of any kind; None if there are none."""
        words = tuple(dict.fromkeys(folded(text).split()))
        return cls(words) if words else None

    def occur(self, *texts: str) -> bool:
        """Return whether each word occurs in at least one of the texts."""
        found = [folded(text) for text in texts]
        return all(any(word in text for text in found) for word in self.words)
