"""Log lines that anybody can cause: the first ones are logged, the rest are counted."""

from __future__ import annotations

from skilder_keys.rpc.log_limiter import LINES, limiter_of
from tests.support.log import CapturedLog


def test_the_first_lines_of_a_kind_are_logged_and_the_others_counted() -> None:
    """For each kind, minute by minute; the count names the address that caused most of them."""
    log = CapturedLog()
    log_limiter = limiter_of(log.logger)
    admitted = [log_limiter.admits(f"ipv4:192.0.2.{1 + number % 2}:{number}", code="X") for number in range(LINES + 5)]
    assert admitted == [True] * LINES + [False] * 5
    assert log_limiter.admits("ipv4:192.0.2.1:1", code="Y")
    log_limiter.report()
    (line,) = log.events
    peers = {"ipv4:192.0.2.1": 3, "ipv4:192.0.2.2": 2}
    assert line == {"event": "lines not logged", "level": "warning", "count": 5, "code": "X", "peers": peers}
    assert log_limiter.admits("ipv4:192.0.2.1:1", code="X")
    log_limiter.report()
    assert len(log.events) == 1


def test_its_memory_is_bounded() -> None:
    """However many kinds and addresses there are, and no count is lost."""
    log = CapturedLog()
    log_limiter = limiter_of(log.logger)
    many = 20_000
    logged = sum(log_limiter.admits(f"ipv6:{number}:1", caller=f"runtime:{number}") for number in range(many))
    logged += sum(log_limiter.admits(f"ipv6:{number}:1", code="X") for number in range(many))
    log_limiter.report()
    counted = sum(line["count"] for line in log.events)
    assert logged + counted == 2 * many
    assert len(log.events) < 10
    assert all(len(line["peers"]) <= 3 for line in log.events)
