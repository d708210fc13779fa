"""The queries of the runbook in docs/operations.md, on a database of the service."""

from __future__ import annotations

import re

import asyncpg

from tests.docs.links import ROOT


async def test_each_query_of_the_runbook_runs(database_url: str) -> None:
    """As it stands there: somebody copies it at night."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8").partition("### When an alert fires")[2]
    blocks = re.findall(
        r"^ *```sql\n(.*?)^ *```$", page.partition("### Errors at the start")[0], re.DOTALL | re.MULTILINE
    )
    statements = [each.strip() for block in blocks for each in block.split(";") if each.strip()]
    assert len(statements) > 5
    connection = await asyncpg.connect(database_url)
    try:
        for statement in statements:
            await connection.fetch(statement)
    finally:
        await connection.close()
