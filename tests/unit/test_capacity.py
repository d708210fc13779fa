"""The table of capacity, which is made from the tables of the bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.changes_table import LINES
from tests.docs import capacity

if TYPE_CHECKING:
    from pathlib import Path

_PAGE = f"""\
| what | limit | measured | least to greatest | met | FastAPI, asyncpg |
|---|---|---|---|---|---|
| tokens a second and core in batches of 100, by Envoy | at least 100,000/s | **118,518/s** |  | yes | 7,030/s |
| first uses a second and core, Postgres included | at least 1,000/s | **363/s** |  | **no** | 231/s |

| loaded by h2load | CPU µs a call: grpcio | envoy | empty grpcio | FastAPI, asyncpg | calls/s: grpcio | envoy |
|---|---|---|---|---|---|---|
| hundred-tool set, 64 at a time | 494 | 107 | 434 | 4,307 | 2,569 | 14,844 |
| one tool, 64 at a time | 388 | 82 | 376 | 1,229 | 3,307 | 20,049 |
<!-- end of results -->
| what | limit | envoy | grpcio | FastAPI, asyncpg |
|---|---|---|---|---|
| {LINES["first use"].name} | at least 1,000 | 1,015 | — | 605 |
| {LINES["first sight"].name} | at least 1,500 | 1,579 | **820** | 605 |
<!-- end of changes -->
"""


def test_the_table_has_the_numbers_of_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second divided by the CPU time of a call, or the number itself; rounded to two digits."""
    page = tmp_path / "performance.md"
    page.write_text(_PAGE, "utf-8")
    monkeypatch.setattr(capacity, "_PERFORMANCE", page)
    assert capacity.table().splitlines() == [
        "| a second and core | envoy | grpcio | empty grpcio | FastAPI, asyncpg |",
        "|---|---|---|---|---|",
        "| Authorize from memory, about one tool | 12,000 | 2,600 | 2,700 | 810 |",
        "| Authorize from memory, with a tool set of 96 tools | 9,300 | 2,000 | 2,300 | 230 |",
        "| tokens in batches of 100 | 120,000 | — | — | 7,000 |",
        "| first use of a key, with Postgres | 1,000 | 360 | — | 600 |",
        "| first call about a key after a restart, with Postgres | 1,600 | 820 | — | 600 |",
    ]
    page.write_text(_PAGE.replace("one tool, 64", "one tool, 65"), "utf-8")
    with pytest.raises(KeyError, match="one tool"):
        capacity.table()
