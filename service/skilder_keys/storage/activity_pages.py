"""Pages of activity, newest first: tables `activity_minute`, `activity_hour` and `activity_day`.

Minutes that are kept are listed as minutes, those before as hours, and those before the hours as days. Where a day has
no fact that matches, its hours and minutes are not looked at; nor are the minutes of such an hour.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.activity import Span
from skilder_keys.storage.activity_looks import Looks
from skilder_keys.storage.activity_search import MINUTES, STALE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    import asyncpg

    from skilder_keys.storage.activity_search import ActivitySearch
    from skilder_keys.storage.database import Connection

_LAST = 2**31 - 1

_OF_ONE = "fact.key, fact.tool, fact.caller, fact.outcome"
_ORDER = f"at DESC, {_OF_ONE}"
_COLUMNS = f"fact.at, {_OF_ONE}, fact.count, fact.first_ms, fact.last_ms, host(fact.source_ip) AS source_ip"


@dataclass(frozen=True, slots=True)
class Range:
    """Which minutes to look at, and how far back there are minutes and hours. All are minutes since 1970.

    Attributes:
        first: The first minute.
        end: The minute after the last one.
        oldest: By span, the oldest that there can be.
    """

    first: int
    end: int
    oldest: dict[Span, int]

    def span_of(self, minute: int) -> Span:
        """Return the span by which a minute is listed."""
        return next((span for span in (Span.MINUTE, Span.HOUR) if minute >= self.oldest[span]), Span.DAY)


class Position(NamedTuple):
    """The place of a fact in the list: that which begins last comes first.

    Attributes:
        minute: Its beginning, in minutes since 1970.
        length: Its length, in minutes.
    """

    minute: int
    length: int
    key: int = _LAST
    tool: int = _LAST
    caller: int = _LAST
    outcome: int = 2**15 - 1

    def __str__(self) -> str:
        """Return the position as a text, for a page token."""
        return json.dumps(list(self))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that a text stands for."""
        return cls(*json.loads(text))


class ActivityPage(NamedTuple):
    """Facts with what their numbers stand for, and the position where the search stopped; None if nothing is left."""

    rows: list[asyncpg.Record]
    stopped: Position | None


class _Places(NamedTuple):
    """Where to look next, newest first.

    Attributes:
        span: The table.
        at: The numbers of its minutes, hours or days.
        until: Nothing that matches begins at or after this minute and is neither here nor in what came before.
    """

    span: Span
    at: list[int]
    until: int


async def read_page(
    connection: Connection, search: ActivitySearch, within: Range, *, after: Position | None, limit: int
) -> ActivityPage:
    """Return the first facts of a list after a position.

    Args:
        connection: A snapshot, with `activity_search.SETTINGS`.
        search: Which facts match.
        within: Which minutes to look at.
        after: The position where the page before ends; None for the first page.
        limit: The most facts.
    """
    looks = await Looks.begin(connection)
    rows: list[asyncpg.Record] = []
    if after is not None:
        if after.key != _LAST:
            span = Span(Span.MINUTE.value * after.length)
            rows = await _read(connection, search, span, [after.minute // after.length], limit, after)
        within = replace(within, end=min(within.end, after.minute))
    async for span, places, until in _places(connection, search, within, looks):
        waiting = places
        while waiting and len(rows) < limit:
            read = partial(_read, connection, search, span, limit=limit - len(rows))
            found, count = await looks.look(f"read {span}", waiting, read)
            rows += found
            last, waiting = waiting[count - 1], waiting[count:]
            if waiting and looks.over():
                return ActivityPage(rows, Position(last * MINUTES[span], 1))
        if len(rows) >= limit:
            break
        if looks.over():
            return ActivityPage(rows, Position(until, 1))
    return ActivityPage(rows, None)


def position_of(row: asyncpg.Record) -> Position:
    """Return the position of a fact."""
    return Position(row["at"] * row["length"], row["length"], row["key"], row["tool"], row["caller"], row["outcome"])


async def _places(
    connection: Connection, search: ActivitySearch, within: Range, looks: Looks
) -> AsyncIterator[_Places]:
    day = MINUTES[Span.DAY]

    def inside(span: Span, places: Iterable[int]) -> list[int]:
        return [each for each in places if within.first <= each * MINUTES[span] < within.end]

    days: Sequence[int] = range((within.end - 1) // day, max(within.first, within.oldest[Span.DAY]) // day - 1, -1)
    while days:
        rows, count = await looks.look("days", days, partial(_active, connection, search, Span.DAY))
        last, days = days[count - 1], days[count:]
        for span, same in groupby((row["at"] for row in rows), lambda each: within.span_of(each * day)):
            found = list(same)
            if span is not Span.MINUTE:
                places = found if span is Span.DAY else _parts(found, Span.DAY, Span.HOUR)
                yield _Places(span, inside(span, places), found[-1] * day)
                continue
            hours = _parts(found, Span.DAY, Span.HOUR)
            while hours:
                rows, count = await looks.look("hours", hours, partial(_active, connection, search, Span.HOUR))
                minutes = _parts([row["at"] for row in rows], Span.HOUR, Span.MINUTE)
                yield _Places(span, inside(span, minutes), hours[count - 1] * MINUTES[Span.HOUR])
                hours = hours[count:]
        yield _Places(Span.DAY, [], last * day)


def _parts(places: Sequence[int], span: Span, shorter: Span) -> list[int]:
    """Return the numbers of the shorter spans that some spans consist of, newest first."""
    count = MINUTES[span] // MINUTES[shorter]
    return [place * count + index for place in places for index in reversed(range(count))]


async def _active(
    connection: Connection, search: ActivitySearch, span: Span, places: Sequence[int]
) -> list[asyncpg.Record]:
    """Return those of some hours or days that have a fact that matches, or whose sums are missing or old."""
    search = search.copy()
    at, step = search.parameter(list(places)), search.parameter(STALE[span])
    return await connection.fetch(
        f"""
        SELECT place.at FROM unnest({at}::integer[]) AS place (at)
        LEFT JOIN LATERAL (
            {search.facts(span, "true AS found", "", "LIMIT 1")}
        ) AS fact ON true
        LEFT JOIN LATERAL (
            SELECT true AS found FROM activity_stale AS stale WHERE stale.step = {step} AND stale.at = place.at LIMIT 1
        ) AS stale ON true
        WHERE fact.found OR stale.found
        ORDER BY place.at DESC
        """,  # noqa: S608 - no value stands in it
        *search.values,
    )


async def _read(
    connection: Connection,
    search: ActivitySearch,
    span: Span,
    places: Sequence[int],
    limit: int,
    after: Position | None = None,
) -> list[asyncpg.Record]:
    """Return the first facts of some minutes, hours or days; with `after`, of one of them, those after a position."""
    search = search.copy()
    if after is not None:
        numbers = ", ".join(search.parameter(each) for each in after[2:])
        search.add_text(f"(fact.key, fact.tool, fact.caller, fact.outcome) > ({numbers})")
    at, most = search.parameter(list(places)), search.parameter(limit)
    return await connection.fetch(
        f"""
        SELECT found.*, {MINUTES[span]} AS length, activity_key.key_id, key.user_id, activity_tool.id AS tool_id,
               activity_caller.name AS caller_name
        FROM (
            SELECT fact.* FROM unnest({at}::integer[]) AS place (at)
            CROSS JOIN LATERAL ({search.facts(span, _COLUMNS, _OF_ONE, f"LIMIT {most}")}) AS fact
            ORDER BY {_ORDER} LIMIT {most}
        ) AS found
        LEFT JOIN activity_key ON activity_key.number = found.key
        LEFT JOIN key ON key.id = activity_key.key_id
        LEFT JOIN activity_tool ON activity_tool.number = found.tool
        LEFT JOIN activity_caller ON activity_caller.number = found.caller
        ORDER BY at DESC, found.key, tool, caller, outcome
        """,  # noqa: S608 - the same
        *search.values,
    )
