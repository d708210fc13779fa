"""Many minutes, hours or days are looked at in statements that are short, however much there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder_keys.storage import activity_looks
from skilder_keys.storage.activity_looks import Looks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg
    import pytest

PLACES = range(503)


async def test_a_look_that_takes_too_long_is_made_shorter(
    sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place is read once, in order. A single one may take as long as any statement."""
    monkeypatch.setattr(activity_looks, "LOOK_SECONDS", 0.05)
    begun: list[Sequence[int]] = []

    async def read(chunk: Sequence[int]) -> list[asyncpg.Record]:
        begun.append(chunk)
        # The last three take longer than a look may.
        return await sql.fetch(
            "SELECT place, CASE WHEN place >= 500 THEN pg_sleep(0.06) END FROM unnest($1::integer[]) AS place", chunk
        )

    async with sql.transaction():
        looks = await Looks.begin(sql)
        waiting: Sequence[int] = PLACES
        found: list[int] = []
        while waiting:
            rows, count = await looks.look("places", waiting, read)
            assert [row["place"] for row in rows] == list(waiting[:count])
            found += waiting[:count]
            waiting = waiting[count:]
    assert found == list(PLACES)
    assert begun[-1] == PLACES[-1:]
    assert sum(map(len, begun)) > len(PLACES), "some looks were given up"
    assert len(begun) < len(PLACES) / 2, "most were at many places"
