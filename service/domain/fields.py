"""The bounds of single fields, and the list of those that break them."""

import re
from collections.abc import Collection, Iterable

from service.domain.errors import FieldViolation, InvalidRequestError
from service.domain.token import TOKEN_PATTERN

CALLER_PREFIX = "caller:"

MAX_ID = 64
MAX_USER_ID = 128
MAX_NAME = 128
MAX_KEY_DESCRIPTION = 200
MAX_DESCRIPTION = 500
MAX_INSTRUCTIONS = 10_000
MAX_PAGE_SIZE = 1_000
DEFAULT_PAGE_SIZE = 100

MAX_VIOLATIONS = 100
"""How many fields at fault are told at most; nobody reads more, and each costs memory."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+|-]*")
_QUOTED = 80
_LINE_BREAKS = str.maketrans("", "", "\n\t")


class Violations:
    """Collects every field at fault, so that a caller mends them all at once.

    Use: check the fields, then call `refuse`, which raises `InvalidRequestError` where any was at fault.
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

    def refuse(self) -> None:
        """Raises InvalidRequestError where any field was at fault."""
        if self._found:
            raise InvalidRequestError(*self._found)

    def identifier(self, field: str, value: str, *, maximum: int = MAX_ID, required: bool = True) -> None:
        """Checks an id: 1 to `maximum` ASCII letters, digits or `._:@/+|-`, a letter or digit first."""
        self._no_token(field, value)
        if not value:
            if required:
                self.add(field, "is required")
        elif len(value) > maximum:
            self.add(field, f"has {len(value)} characters; at most {maximum} are allowed")
        elif not _ID.fullmatch(value):
            self.add(field, "may hold letters, digits and ._:@/+|- only, a letter or digit first")

    def text(self, field: str, value: str, *, maximum: int, required: bool = True, lines: bool = False) -> None:
        """Checks words for people: printable, at most `maximum` characters; with `lines` also line breaks and tabs."""
        self._no_token(field, value)
        if not value.strip():
            if required:
                self.add(field, "is required")
            elif value:
                self.add(field, "is blank")
        elif len(value) > maximum:
            self.add(field, f"has {len(value)} characters; at most {maximum} are allowed")
        elif not (value.translate(_LINE_BREAKS) if lines else value).isprintable():
            self.add(field, "has a character that cannot be printed")

    def actor(self, value: str | None) -> None:
        """Checks the person on whose behalf a call is made, if it is."""
        self.user("actor", value or "", required=False)

    def count(self, field: str, values: Collection[object], *, maximum: int) -> None:
        """Checks that a list has at most `maximum` elements."""
        if len(values) > maximum:
            self.add(field, f"has {len(values)} elements; at most {maximum} are allowed")

    def user(self, field: str, value: str, *, required: bool = True) -> None:
        """Checks the id of a person, which cannot be taken for a program's: those are told as `caller:NAME`."""
        self.identifier(field, value, maximum=MAX_USER_ID, required=required)
        if value.startswith(CALLER_PREFIX):
            self.add(field, f"begins with {CALLER_PREFIX!r}, which stands for programs")

    def page_size(self, value: int) -> int:
        """Checks the size of a page, 1 to MAX_PAGE_SIZE, and answers it; 0 means DEFAULT_PAGE_SIZE."""
        if not 0 <= value <= MAX_PAGE_SIZE:
            self.add("page_size", f"is {value}; 1 to {MAX_PAGE_SIZE} are allowed, and 0 for {DEFAULT_PAGE_SIZE}")
        return value or DEFAULT_PAGE_SIZE

    def _no_token(self, field: str, value: str) -> None:
        """Refuses what people type when they found a token: all that passes here is stored, and shown to others."""
        if TOKEN_PATTERN.search(value):
            self.add(field, "holds a token: leave it out, and revoke the key")


def quoted(value: str) -> str:
    """Quotes a value for a message, cut to what a person needs to know it again; what is not printable is escaped.

    A token in it is left out: messages end in logs.
    """
    return shortened(repr(TOKEN_PATTERN.sub("…", value)[:_QUOTED]), _QUOTED)


def shortened(text: str, size: int) -> str:
    """Cuts a text to at most `size` bytes of UTF-8, and a mark that it was cut."""
    encoded = text.encode("utf-8", "replace")
    return text if len(encoded) <= size else f"{encoded[:size].decode('utf-8', 'ignore')}…"
