"""The promise, on a fleet under load and faults: no decision is older than a change that has returned."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

import pytest

from faults.history import OK
from faults.run import RunOptions, run
from tests.support.lengths import by_form
from tests.support.service import TRANSPORTS

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = os.environ.get("SKILDER_KEYS_FAULTS_SECONDS")
_TRANSPORT = os.environ.get("SKILDER_KEYS_FAULTS_TRANSPORT", "" if _SECONDS else by_form("envoy", ""))
CHOSEN = (_TRANSPORT,) if _TRANSPORT else TRANSPORTS
SECONDS = float(_SECONDS or by_form("7", "60")) / len(CHOSEN)
SEED = int(os.environ.get("SKILDER_KEYS_FAULTS_SEED", secrets.randbelow(10**6)))


@pytest.mark.long
@pytest.mark.parametrize("transport", CHOSEN, indirect=True)
async def test_a_fleet_keeps_its_promises_whatever_goes_wrong(transport: str, postgres_files: Path) -> None:
    """Every decision fits the state at some moment of its call, and no key is lost.

    SKILDER_KEYS_FAULTS_SECONDS has it run for longer, each transport for its part of the time;
    SKILDER_KEYS_FAULTS_TRANSPORT chooses one, and SKILDER_KEYS_FAULTS_SEED has the same faults come again.
    """
    report = await run(RunOptions(SEED, SECONDS, transport=transport, postgres_files=postgres_files))
    print(report)  # noqa: T201 - for people who run it for long, with -s
    assert not report.violations, str(report)
    assert not report.audit_findings, str(report)
    assert not report.tracebacks, str(report)
    # A run with few calls proves little. What is rare may be missing in a short one.
    counts = report.counts()
    for name, a_second in {
        "Granted near": 20,
        "Granted far": 10,
        "Denied near": 10,
        "Denied far": 5,
        "REVOKED": 10,
        "MEMBER_REMOVED": 0.05,
        "WORKSPACE_GONE": 0.5,
        f"Issue {OK}": 1,
        f"Rotate {OK}": 0.1,
        "EXPIRED": 0.2,
        "SUSPENDED": 0.2,
        f"Suspend {OK}": 0.1,
        f"Limit {OK}": 0.1,
        f"Revoke {OK}": 0.5,
        f"Apply {OK}": 1,
    }.items():
        assert counts[name] >= int(a_second * SECONDS), f"{name}\n{report}"
    for worker in ("near 0", "near 1", "far 0"):
        assert report.hits[worker] >= SECONDS / 2, f"{worker}\n{report}"
    assert report.right_after() >= 10 * SECONDS, str(report)
    assert len(report.faults) >= SECONDS / 6, str(report)
