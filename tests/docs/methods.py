"""The deadline of each method and whether it may be sent again, for the page and for docs/service-config.json."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.docs.contract import PACKAGE, services

if TYPE_CHECKING:
    from tests.docs.contract import Method


class Plan(NamedTuple):
    """How clients call a method.

    Attributes:
        timeout: The deadline, in seconds.
        initial_backoff: The pause before the first retry, in seconds.
        max_backoff: The longest pause, in seconds.
        retried: Whether the method may be sent again.
    """

    timeout: int
    initial_backoff: float
    max_backoff: float
    retried: bool


RETRIES = {
    "NO_SIDE_EFFECTS": "Always. It changes nothing.",
    "IDEMPOTENT": "Always. A second call changes nothing more and returns the same.",
    "IDEMPOTENCY_UNKNOWN": "Not by itself: see [retries](#retries).",
}
"""Whether a method may be sent again, by its `idempotency_level`."""

_QUICK = {"Authorize"}
# Longer than the service lets a stream last by default.
_LASTING = {"FollowEvents": 120}
_TIMEOUTS = {"quick": 2, "NO_SIDE_EFFECTS": 10, "IDEMPOTENT": 20, "IDEMPOTENCY_UNKNOWN": 20}


def table() -> str:
    """Return the table of all methods."""
    rows = ["| method | deadline | send it again? |", "|---|---|---|"]
    for service in services():
        for method in service.methods:
            link = f"[`{method.name}`](#{method.name.lower()})"
            rows.append(f"| {link} | {_plan(method).timeout} s | {RETRIES[method.level]} |")
    return "\n".join(rows)


def service_config() -> str:
    """Return the gRPC service config: https://github.com/grpc/grpc/blob/master/doc/service_config.md."""
    names: dict[Plan, list[dict[str, str]]] = defaultdict(list)
    for service in services():
        for method in service.methods:
            names[_plan(method)].append({"service": f"{PACKAGE}.{service.name}", "method": method.name})
    # gRPC stops retrying on a channel when many of its calls fail.
    throttling = {"maxTokens": 100, "tokenRatio": 0.1}
    config = {"methodConfig": [_config(plan, names[plan]) for plan in sorted(names)], "retryThrottling": throttling}
    return f"{json.dumps(config, indent=2)}\n"


def _plan(method: Method) -> Plan:
    quick = method.name in _QUICK
    initial, longest = (0.05, 0.5) if quick else (0.1, 2)
    timeout = _LASTING.get(method.name) or _TIMEOUTS["quick" if quick else method.level]
    return Plan(timeout, initial, longest, method.level != "IDEMPOTENCY_UNKNOWN")


def _config(plan: Plan, names: list[dict[str, str]]) -> dict[str, Any]:
    config: dict[str, Any] = {"name": names, "timeout": f"{plan.timeout}s"}
    if plan.retried:
        config["retryPolicy"] = {
            "maxAttempts": 4,
            "initialBackoff": f"{plan.initial_backoff}s",
            "maxBackoff": f"{plan.max_backoff}s",
            "backoffMultiplier": 3,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    return config
