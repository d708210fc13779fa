"""The orders of lists of keys in SQL: columns of the table `key`. An index has each order, or the beginning of it."""

from __future__ import annotations

from dataclasses import dataclass

from skilder_keys.domain.key_filter import KeyOrder

LAST_USE = "coalesce(key.last_used_at, key.created_at)"
EXPIRY = "coalesce(key.expires_at, 'infinity')"
"""As an index has it."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order of keys.

    Attributes:
        columns: What the keys are ordered by, and the type of each.
        direction: Of all of them: ASC or DESC.
    """

    columns: tuple[tuple[str, str], ...]
    direction: str

    @property
    def places(self) -> str:
        """The columns as a part of SELECT, with the names `place0`, `place1`, …."""
        return ", ".join(f"{column} AS place{index}" for index, (column, _) in enumerate(self.columns))

    @property
    def names(self) -> str:
        """The names of the places."""
        return ", ".join(f"place{index}" for index, _ in enumerate(self.columns))

    def by(self, limit: str, *, places: bool = False) -> str:
        """Return the end of a query: ordered by the columns, or by the places that another query selected."""
        columns = [f"place{index}" if places else column for index, (column, _) in enumerate(self.columns)]
        return f"ORDER BY {', '.join(f'{each} {self.direction}' for each in columns)} LIMIT {limit}"


ORDERS = {
    KeyOrder.NEWEST: Order((("key.id", "uuid"),), "DESC"),
    # An index has the day, and Postgres sorts the keys of one day after the other.
    KeyOrder.LEAST_RECENTLY_USED: Order(
        (("key.used_on", "date"), (LAST_USE, "timestamptz"), ("key.id", "uuid")), "ASC"
    ),
    KeyOrder.EXPIRES_NEXT: Order(((EXPIRY, "timestamptz"), ("key.id", "uuid")), "ASC"),
}
