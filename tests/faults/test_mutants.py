"""The history check finds each mistake that the fence prevents; a check that lets them pass would be worth nothing."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from faults.run import RunOptions, run

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0
# `test_histories` finds the mistakes about diverged histories.
FAULTS = {
    "no-invalidation": ["overtake loads"],
    "no-lease-check": ["stop a worker over a revocation", "freeze the network over a revocation"],
    "no-writer-wait": ["slow the fence down over a revocation"],
    "no-lease-wait": ["stop a worker over a revocation"],
    "no-clean-start": ["stop a worker over a revocation"],
    "no-member": ["overtake loads"],
    "no-hat": ["overtake loads"],
    "no-skill": ["overtake loads"],
    "no-tool": ["overtake loads"],
}


@pytest.mark.long
@pytest.mark.parametrize("mutation", FAULTS)
async def test_a_mistake_is_found(mutation: str, postgres_files: Path) -> None:
    """Soon, under the faults that reveal it."""
    options = RunOptions(
        secrets.randbelow(10**6),
        SECONDS,
        FAULTS[mutation],
        mutation=mutation,
        to_the_end=False,
        postgres_files=postgres_files,
    )
    report = await run(options)
    assert any(violation.kind.startswith("granted") for violation in report.violations), str(report)
