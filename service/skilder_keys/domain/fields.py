"""The bounds of single fields, and the list of those that break them."""

import re
from collections.abc import Callable, Collection, Iterable

from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.texts import find_outer_space, find_refused, is_visible, named, shown
from skilder_keys.domain.token import TOKEN_PATTERN

CALLER_PREFIX = "caller:"

MAX_ID = 64
MAX_FOREIGN_ID = 255
MAX_NAME = 128
MAX_KEY_DESCRIPTION = 200
MAX_DESCRIPTION = 500
MAX_INSTRUCTIONS = 10_000
MAX_PAGE_SIZE = 1_000
DEFAULT_PAGE_SIZE = 100

MAX_VIOLATIONS = 100
"""How many fields at fault are told at most; nobody reads more, and each costs memory."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+|-]*")
_ID_RULE = "letters, digits and ._:@/+|- are allowed, a letter or digit first"
_QUOTED = 80
# A token that lost an end still holds most of its secret: 22 characters are the id, the rest is not for anybody's eyes.
_SECRET = re.compile(r"(?:WSK|USK|RTK)_[0-9A-Za-z]{23}")


class Violations:
    """Collects every field at fault, so that a caller mends them all at once.

    Use: check the fields, then call `raise_if_any`, which raises `InvalidRequestError` where any was at fault.
    """

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    @property
    def full(self) -> bool:
        """Whether no more will be told, so that looking for more is no use."""
        return len(self._found) >= MAX_VIOLATIONS

    def __bool__(self) -> bool:
        """Tells whether any field was at fault."""
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """Notes that a field is at fault."""
        if not self.full:
            self._found.append(FieldViolation(field, description))

    def extend(self, found: Iterable[FieldViolation]) -> None:
        """Notes what was found at fault elsewhere."""
        for each in found:
            self.add(each.field, each.description)

    def name_entries(self, named: Callable[[str], str]) -> None:
        """Put before what is said of each field what `named` makes of its path: the entry that it is in."""
        self._found = [FieldViolation(each.field, named(each.field) + each.description) for each in self._found]

    def raise_if_any(self) -> None:
        """Raises InvalidRequestError where any field was at fault."""
        if self._found:
            raise InvalidRequestError(*self._found)

    def identifier(self, field: str, value: str, *, required: bool = True) -> None:
        """Check an id of our own: 1 to 64 ASCII letters, digits or `._:@/+|-`, a letter or digit first."""
        if self._is_short(field, value, MAX_ID, required=required) and not _ID.fullmatch(value):
            good = _ID.match(value)
            self._refuse_character(field, value, good.end() if good else 0, f"; {_ID_RULE}")

    def foreign_id(self, field: str, value: str, *, required: bool = True) -> None:
        """Check an id that others made: a one-line text of up to 255 characters, no space at its beginning or end."""
        if not self._is_clean(field, value, MAX_FOREIGN_ID, required=required, lines=False):
            return
        at = find_outer_space(value)
        if at is not None:
            self._refuse_character(field, value, at, " at its end: leave it out" if at else ": leave it out")

    def text(self, field: str, value: str, *, maximum: int, required: bool = True, lines: bool = False) -> None:
        """Check words for people, at most `maximum` characters; with `lines`, line feeds and tabs are allowed."""
        self._is_clean(field, value, maximum, required=required, lines=lines)

    def actor(self, value: str | None) -> None:
        """Checks the person on whose behalf a call is made, if it is."""
        self.user("actor", value or "", required=False)

    def count(self, field: str, values: Collection[object], *, maximum: int) -> None:
        """Checks that a list has at most `maximum` elements."""
        if len(values) > maximum:
            self.add(field, f"has {len(values)} elements; at most {maximum} are allowed")

    def user(self, field: str, value: str, *, required: bool = True) -> None:
        """Check the id of a person, which cannot be taken for a program's: those are told as `caller:NAME`."""
        self.foreign_id(field, value, required=required)
        if value.startswith(CALLER_PREFIX):
            self.add(field, f"is {quoted(value)}: ids that begin with {CALLER_PREFIX!r} stand for programs")

    def page_size(self, value: int) -> int:
        """Checks the size of a page, 1 to MAX_PAGE_SIZE, and answers it; 0 means DEFAULT_PAGE_SIZE."""
        if not 0 <= value <= MAX_PAGE_SIZE:
            self.add("page_size", f"is {value}; 1 to {MAX_PAGE_SIZE} are allowed, and 0 for {DEFAULT_PAGE_SIZE}")
        return value or DEFAULT_PAGE_SIZE

    def _is_short(self, field: str, value: str, maximum: int, *, required: bool) -> bool:
        """Check all that is checked of every text first; return whether there is more to look at."""
        if TOKEN_PATTERN.search(value):
            # People type it when they found one. All that passes here is stored, and shown to others.
            self.add(field, "holds a token: leave it out, and revoke the key")
        elif len(value) > maximum:
            self.add(field, f"has {len(value)} characters; at most {maximum} are allowed: {quoted(value)}")
        elif not value and required:
            self.add(field, "is required")
        else:
            return bool(value)
        return False

    def _is_clean(self, field: str, value: str, maximum: int, *, required: bool, lines: bool) -> bool:
        """Check a text character by character; return whether there is more to look at."""
        if not self._is_short(field, value, maximum, required=required):
            return False
        at = find_refused(value, lines=lines)
        if at is not None:
            kind = "no text" if lines or find_refused(value[at], lines=True) == 0 else "no text of one line"
            self._refuse_character(field, value, at, f", which {kind} may hold: leave it out")
        elif not is_visible(value):
            self.add(field, f"is {quoted(value)}, in which there is nothing to see: write a text")
        else:
            return True
        return False

    def _refuse_character(self, field: str, value: str, at: int, rule: str) -> None:
        self.add(field, f"is {quoted(value, at)}: character {at + 1} is {named(value[at])}{rule}")


def quoted(value: str, at: int = 0) -> str:
    """Return a value in quotes for a message, cut to what a person needs to know it again, around the index `at`.

    What would not be seen stands there by its number. A value with a token in it is left out: messages end in logs.
    """
    if _SECRET.search(value):
        return "'…'"
    begin = 0 if len(shown(value[:at]).encode("utf-8", "replace")) < _QUOTED // 2 else at - _QUOTED // 8
    cut = f"{'…' if begin else ''}{shortened(shown(value[begin : begin + _QUOTED + 1]), _QUOTED)}"
    return f'"{cut}"' if "'" in cut and '"' not in cut else f"'{cut}'"


def shortened(text: str, size: int) -> str:
    """Cuts a text to at most `size` bytes of UTF-8, and a mark that it was cut."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= size else f"{encoded[:size].decode('utf-8', 'ignore')}…"
