"""The history check finds each mistake that the fence is there to prevent: a check that passes them proves nothing."""

from __future__ import annotations

import secrets

import pytest

from faults.run import Order, run

SECONDS = 60.0
# Those of parted histories are found by `test_histories`.
FAULTS = {
    "no-invalidation": ["overtake loads"],
    "no-lease-check": ["stop a worker over a revocation", "freeze the network over a revocation"],
    "no-writer-wait": ["slow the fence down over a revocation"],
    "no-lease-wait": ["stop a worker over a revocation"],
    "no-clean-start": ["stop a worker over a revocation"],
}


@pytest.mark.parametrize("mutation", FAULTS)
async def test_a_mistake_is_found(mutation: str) -> None:
    """Soon, under the faults that bring it out."""
    order = Order(secrets.randbelow(10**6), SECONDS, FAULTS[mutation], mutation=mutation, to_the_end=False)
    report = await run(order)
    assert any(violation.kind.startswith("granted") for violation in report.violations), str(report)
