"""The history check finds each mistake that the fence prevents; a check that lets them pass would be worth nothing."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from faults.fleet import FAR, NEAR
from faults.run import RunOptions, run
from tests.support.lengths import by_form, some_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from faults.checker import Violation

SECONDS = 60.0
# `test_histories` finds the mistakes about diverged histories.
FAULTS = {
    "no-invalidation": ["overtake loads"],
    "no-lease-check": ["stop a worker over a revocation", "freeze the network over a revocation"],
    "no-writer-wait": ["slow the fence down over a revocation"],
    "no-lease-wait": ["stop a worker over a revocation"],
    "no-clean-start": ["stop a worker over a revocation"],
    "no-expiry": ["overtake loads"],
    "no-suspension": ["overtake loads"],
    "no-narrowing": ["overtake loads"],
    "no-networks": ["overtake loads"],
    "no-rotation": ["overtake loads"],
    "first-of-family": ["overtake loads"],
    "resume-by-revoke": ["overtake loads"],
    "no-bulk-wait": ["slow the fence down over a revocation"],
    "no-member": ["overtake loads"],
    "no-hat": ["overtake loads"],
    "no-skill": ["overtake loads"],
    "no-tool": ["overtake loads"],
}
# Mistakes in counting, with faults that reveal them and kill no worker, so that the counts must be exact.
COUNTING = {
    "no-last-flush": ["reload a server"],
    "fold-replaces": ["reload a server"],
    "fold-keeps-rows": ["reload a server"],
    "count-twice": ["reload a server"],
    "no-second-flush": ["break the network"],
    "count-again": ["lose confirmations"],
}
COUNTING_SECONDS = 10.0
# Only some commits are the far server's, and a busy machine looks too late at some of those.
LONGER = {"count-again": 40.0}
# The short form has one of them; the long one has some, others in each run, as each takes servers of its own.
SHORT = ["no-invalidation"]


def wrongly_granted(violations: Sequence[Violation]) -> set[str]:
    """Return the servers that granted what they must not."""
    return {each.via for each in violations if each.kind.startswith("granted")}


@pytest.mark.long
@pytest.mark.parametrize("mutation", by_form(SHORT, some_of(FAULTS, 6), list(FAULTS)))
async def test_a_mistake_is_found(mutation: str, postgres_files: Path) -> None:
    """Soon, under the faults that reveal it."""
    options = RunOptions(
        secrets.randbelow(10**6),
        SECONDS,
        FAULTS[mutation],
        mutations={NEAR: mutation, FAR: mutation},
        until=lambda violations: bool(wrongly_granted(violations)),
        postgres_files=postgres_files,
    )
    report = await run(options)
    assert wrongly_granted(report.violations), str(report)


@pytest.mark.long
@pytest.mark.parametrize("mutation", by_form([], some_of(COUNTING, 2), list(COUNTING)))
async def test_a_mistake_in_counting_is_found(mutation: str, postgres_files: Path) -> None:
    """At the end of the run, by calls that are missing in the activity tables, or counted twice."""
    menu = COUNTING[mutation]
    mutations = {NEAR: mutation, FAR: mutation}
    seconds = LONGER.get(mutation, COUNTING_SECONDS)
    options = RunOptions(secrets.randbelow(10**6), seconds, menu, mutations=mutations, postgres_files=postgres_files)
    report = await run(options)
    assert report.activity is not None
    assert report.activity.findings, str(report)
