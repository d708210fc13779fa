"""The rules for single fields of a request, and the list of the fields that break them."""

import re
from collections.abc import Callable, Collection, Iterable

from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.texts import find_outer_space, find_rejected, is_visible, named, shown
from skilder_keys.domain.token import TOKEN_PATTERN

MAX_ID = 64
MAX_FOREIGN_ID = 255
MAX_NAME = 128
MAX_KEY_DESCRIPTION = 200
MAX_DESCRIPTION = 500
MAX_INSTRUCTIONS = 10_000
MAX_PAGE_SIZE = 1_000
DEFAULT_PAGE_SIZE = 100

MAX_VIOLATIONS = 100
"""The most invalid fields to report. Nobody reads more, and each one takes memory."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+|-]*")
_ID_RULE = "letters, digits and ._:@/+|- are allowed, a letter or digit first"
_URL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_URL_ID_RULE = "letters, digits and ._- are allowed, a letter or digit first"
_QUOTED = 80
# A token that was cut short still has part of its secret: 22 characters are the id, and the secret follows.
_SECRET = re.compile(r"(?:WSK|USK|RTK)_[0-9A-Za-z]{23}")


class Violations:
    """Collects all invalid fields of a request, so that a caller can correct them at once.

    Check the fields, then call `raise_if_any`.
    """

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    @property
    def full(self) -> bool:
        """Whether the list has all the fields that are reported, so that further checks are useless."""
        return len(self._violations) >= MAX_VIOLATIONS

    def __bool__(self) -> bool:
        """Return whether any field is invalid."""
        return bool(self._violations)

    def add(self, field: str, description: str) -> None:
        """Add an invalid field, unless the list is full."""
        if not self.full:
            self._violations.append(FieldViolation(field, description))

    def extend(self, violations: Iterable[FieldViolation]) -> None:
        """Add invalid fields that were collected elsewhere."""
        for each in violations:
            self.add(each.field, each.description)

    def name_entries(self, named: Callable[[str], str]) -> None:
        """Put in front of each description what `named` returns for the path of the field: the entry it belongs to."""
        self._violations = [
            FieldViolation(each.field, named(each.field) + each.description) for each in self._violations
        ]

    def raise_if_any(self) -> None:
        """Raise InvalidRequestError if any field is invalid."""
        if self._violations:
            raise InvalidRequestError(*self._violations)

    def identifier(self, field: str, value: str, *, required: bool = True) -> None:
        """Check one of our ids: 1 to 64 ASCII letters, digits or `._:@/+|-`, a letter or digit first."""
        self._identifier(field, value, _ID, _ID_RULE, required=required)

    def url_identifier(self, field: str, value: str) -> None:
        """Check one of our ids that stands in URLs: 1 to 64 ASCII letters, digits or `._-`, a letter or digit first."""
        self._identifier(field, value, _URL_ID, _URL_ID_RULE, required=True)

    def foreign_id(self, field: str, value: str, *, required: bool = True) -> None:
        """Check an id of another system: one line of up to 255 characters, without a space at its beginning or end."""
        if not self._is_clean(field, value, MAX_FOREIGN_ID, required=required, lines=False):
            return
        at = find_outer_space(value)
        if at is not None:
            self._reject_character(field, value, at, " at its end: leave it out" if at else ": leave it out")

    def key_id(self, field: str, value: str | None) -> None:
        """Check the id of a key in its canonical spelling, if there is one."""
        if value is not None and not _KEY_ID.fullmatch(value):
            self.add(field, f"is {quoted(value)}, which is not a key id, a UUID in lower case")

    def text(self, field: str, value: str, *, maximum: int, required: bool = True, lines: bool = False) -> None:
        """Check a text for people, of at most `maximum` characters; `lines` allows line feeds and tabs."""
        self._is_clean(field, value, maximum, required=required, lines=lines)

    def actor(self, value: str | None) -> None:
        """Check the person on whose behalf a call is made, if there is one."""
        self.foreign_id("actor", value or "", required=False)

    def count(self, field: str, values: Collection[object], *, maximum: int) -> None:
        """Check that a list has at most `maximum` elements."""
        if len(values) > maximum:
            self.add(field, f"has {len(values)} elements; at most {maximum} are allowed")

    def page_size(self, value: int) -> int:
        """Check the size of a page, and return how many elements the page has at most.

        As in AIP-158, 0 means DEFAULT_PAGE_SIZE, and a number over MAX_PAGE_SIZE means MAX_PAGE_SIZE.
        """
        if value < 0:
            self.add("page_size", f"is {value}; a size is 0 for {DEFAULT_PAGE_SIZE}, or 1 or more")
        return min(value or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)

    def _identifier(self, field: str, value: str, form: re.Pattern[str], rule: str, *, required: bool) -> None:
        if self._is_short(field, value, MAX_ID, required=required) and not form.fullmatch(value):
            good = form.match(value)
            self._reject_character(field, value, good.end() if good else 0, f"; {rule}")

    def _is_short(self, field: str, value: str, maximum: int, *, required: bool) -> bool:
        """Make the checks that come first for every text; return whether there is a text to check further."""
        if TOKEN_PATTERN.search(value):
            # People paste tokens that they found. A text that passes here is stored, and shown to others.
            self.add(field, "contains a token: leave it out, and revoke the key")
        elif len(value) > maximum:
            self.add(field, f"has {len(value)} characters; at most {maximum} are allowed: {quoted(value)}")
        elif not value and required:
            self.add(field, "is required")
        else:
            return bool(value)
        return False

    def _is_clean(self, field: str, value: str, maximum: int, *, required: bool, lines: bool) -> bool:
        """Check the characters of a text; return whether there is a text to check further."""
        if not self._is_short(field, value, maximum, required=required):
            return False
        at = find_rejected(value, lines=lines)
        if at is not None:
            where = "" if lines or find_rejected(value[at], lines=True) == 0 else " in a single line"
            self._reject_character(field, value, at, f", which is not allowed{where}: leave it out")
        elif not is_visible(value):
            self.add(field, f"is {quoted(value)}, which has no visible character: write a text")
        else:
            return True
        return False

    def _reject_character(self, field: str, value: str, at: int, rule: str) -> None:
        self.add(field, f"is {quoted(value, at)}: character {at + 1} is {named(value[at])}{rule}")


def quoted(value: str, at: int = 0) -> str:
    """Return a value in quotes for a message, cut to about 80 bytes around the index `at`.

    A character that cannot be seen is replaced by its number. A value that contains a token is left out, because
    messages are logged.
    """
    if _SECRET.search(value):
        return "'…'"
    begin = 0 if len(shown(value[:at]).encode("utf-8", "replace")) < _QUOTED // 2 else at - _QUOTED // 8
    cut = f"{'…' if begin else ''}{shortened(shown(value[begin : begin + _QUOTED + 1]), _QUOTED)}"
    return f'"{cut}"' if "'" in cut and '"' not in cut else f"'{cut}'"


def shortened(text: str, size: int) -> str:
    """Return a text cut to at most `size` bytes of UTF-8, followed by `…` if it was cut."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= size else f"{encoded[:size].decode('utf-8', 'ignore')}…"
