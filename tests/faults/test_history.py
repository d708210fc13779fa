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

    from faults.run import Report

_SECONDS = os.environ.get("SKILDER_KEYS_FAULTS_SECONDS")
_TRANSPORT = os.environ.get("SKILDER_KEYS_FAULTS_TRANSPORT", "" if _SECONDS else by_form("envoy", ""))
CHOSEN = (_TRANSPORT,) if _TRANSPORT else TRANSPORTS
SECONDS = float(_SECONDS or by_form("1.5", "60")) / len(CHOSEN)
SEED = int(os.environ.get("SKILDER_KEYS_FAULTS_SEED", secrets.randbelow(10**6)))


# For each second of the run. One with few calls proves little, so it goes on until there were as many. What is rare may
# be missing in a short one.
LEAST = {
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
    "SOURCE_NOT_ALLOWED": 0.1,
    f"Suspend {OK}": 0.1,
    f"Limit {OK}": 0.1,
    f"Revoke {OK}": 0.5,
    f"Apply {OK}": 1,
}


def too_few(report: Report) -> list[str]:
    """Return of what there was too little in a run."""
    counts = report.counts()
    few = [name for name, a_second in LEAST.items() if counts[name] < int(a_second * SECONDS)]
    few += [f"from memory of {each}" for each in ("near 0", "near 1", "far 0") if report.hits[each] < SECONDS / 2]
    few += ["asked right after a change"] if report.right_after() < 10 * SECONDS else []
    return few + (["faults"] if len(report.faults) < SECONDS / 6 else [])


@pytest.mark.long
@pytest.mark.parametrize("transport", CHOSEN, indirect=True)
async def test_a_fleet_keeps_its_promises_whatever_goes_wrong(transport: str, postgres_files: Path) -> None:
    """Every decision fits the state at some moment of its call, and no key is lost.

    SKILDER_KEYS_FAULTS_SECONDS has it run for longer, each transport for its part of the time;
    SKILDER_KEYS_FAULTS_TRANSPORT chooses one, and SKILDER_KEYS_FAULTS_SEED has the same faults come again.
    """
    options = RunOptions(
        SEED, SECONDS, transport=transport, enough=lambda report: not too_few(report), postgres_files=postgres_files
    )
    report = await run(options)
    print(report)  # noqa: T201 - for people who run it for long, with -s
    assert not report.violations, str(report)
    assert not report.audit_findings, str(report)
    assert report.activity is not None
    assert not report.activity.findings, str(report)
    assert not report.tracebacks, str(report)
    assert not too_few(report), f"{too_few(report)}\n{report}"
