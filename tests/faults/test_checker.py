"""The checker on hand-made histories: right ones pass, and every kind of wrong one is found."""

from __future__ import annotations

import pytest

from faults.history import FORGED, Denied, Failed, Granted
from tests.support.hand_made_history import (
    BOTH,
    GONE,
    LEFT,
    LOST,
    MEMBER_REMOVED,
    NOT_ALLOWED,
    REVOKED,
    RIGHT,
    UNKNOWN,
    Run,
    reach,
)


def test_a_run_without_faults_is_right(run: Run) -> None:
    """Granted while good, denied after the revocation, every reason in its place."""
    run.ask(5, 6, Granted(LEFT))
    run.ask(5, 6, Granted(LEFT), tool="left")
    run.ask(5, 6, NOT_ALLOWED, tool="right")
    run.ask(5, 6, UNKNOWN, token=FORGED)
    run.revoke(10, 20)
    run.ask(21, 22, REVOKED)
    run.ask(30, 31, REVOKED, last=True)
    run.listed = {"k": False}
    assert run.kinds() == []


def test_a_grant_that_began_after_the_revocation_returned_is_found(run: Run) -> None:
    """However long after."""
    run.revoke(10, 20)
    run.ask(21, 22, Granted(LEFT))
    run.ask(10**12, 10**12 + 1, Granted(LEFT))
    assert run.kinds() == ["granted after its revocation"] * 2


def test_a_call_that_touches_the_revocation_may_have_either_outcome(run: Run) -> None:
    """It began in the nanosecond in which the revocation ended, or the reverse: they overlap."""
    for begin, end in ((5, 10), (9, 11), (12, 13), (5, 25), (19, 21), (20, 21)):
        run.ask(begin, end, Granted(LEFT))
        run.ask(begin, end, REVOKED)
    run.revoke(10, 20)
    assert run.kinds() == []


def test_a_denial_before_the_revocation_began_is_found(run: Run) -> None:
    """The key was good throughout the call."""
    run.ask(5, 9, REVOKED)
    run.revoke(10, 20)
    assert run.kinds() == ["denied while good"]


@pytest.mark.parametrize("reason", ["UNKNOWN", "REVOKED", "MALFORMED", "MEMBER_REMOVED", "WORKSPACE_GONE"])
def test_a_denial_of_a_key_that_is_good_is_found(run: Run, reason: str) -> None:
    """Whatever the reason."""
    run.ask(5, 6, Denied(reason))
    assert run.kinds() == ["denied while good"]


def test_a_denial_with_a_wrong_reason_is_found(run: Run) -> None:
    """A revoked key is not unknown, since the token verifies."""
    run.revoke(10, 20)
    run.ask(21, 22, UNKNOWN)
    assert run.kinds() == ["denied for a wrong reason"]


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "UNDER_WAY"])
def test_a_revocation_whose_response_was_lost_may_have_happened(run: Run, code: str) -> None:
    """From its begin on, for ever, and back and forth: servers may differ while nobody got a response."""
    run.ask(5, 9, Granted(LEFT))
    run.revoke(10, 20, code)
    for begin in (10, 15, 21, 10**12):
        run.ask(begin, begin + 1, REVOKED)
        run.ask(begin, begin + 1, Granted(LEFT))
    assert run.kinds() == []


def test_a_denial_before_a_lost_revocation_is_found(run: Run) -> None:
    """It cannot have worked before it began."""
    run.ask(5, 9, REVOKED)
    run.revoke(10, 20, LOST)
    assert run.kinds() == ["denied while good"]


def test_a_retry_settles_a_lost_revocation(run: Run) -> None:
    """Until the retry has returned OK, both outcomes are right."""
    run.revoke(10, 20, LOST)
    run.revoke(30, 35, "DEADLINE_EXCEEDED")
    run.revoke(40, 50)
    run.ask(45, 46, Granted(LEFT))
    run.ask(50, 51, Granted(LEFT))
    run.ask(15, 16, REVOKED)
    assert run.kinds() == []
    run.ask(51, 52, Granted(LEFT))
    assert run.kinds() == ["granted after its revocation"]


def test_the_first_revocation_that_returned_counts(run: Run) -> None:
    """A later or running retry does not make the key good again."""
    run.revoke(10, 20)
    run.revoke(30, 40)
    run.revoke(35, 0, "UNDER_WAY")
    run.ask(32, 33, Granted(LEFT))
    assert run.kinds() == ["granted after its revocation"]


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"])
def test_a_call_that_failed_in_an_outage_is_no_violation(run: Run, code: str) -> None:
    """It says nothing about the token."""
    run.ask(5, 6, Failed(code))
    assert run.kinds() == []


@pytest.mark.parametrize("code", ["INTERNAL", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNKNOWN"])
def test_a_call_that_failed_for_no_outage_is_found(run: Run, code: str) -> None:
    """For changes and queries alike."""
    run.ask(5, 6, Failed(code))
    run.revoke(7, 8, code)
    run.apply(9, 10, 2, reach(BOTH), code)
    run.issue(11, 12, 2, code=code)
    assert run.kinds() == ["failed without an outage"] * 4


def test_a_moving_hat_counts_in_the_old_or_the_new_place(run: Run) -> None:
    """Before and after the move in only one of them, and never in a third."""
    run.apply(10, 20, 2, reach(RIGHT))
    run.ask(5, 9, Granted(LEFT))
    for begin, end in ((5, 10), (12, 13), (19, 21), (20, 21)):
        run.ask(begin, end, Granted(LEFT))
        run.ask(begin, end, Granted(RIGHT))
    run.ask(21, 22, Granted(RIGHT))
    assert run.kinds() == []
    run.ask(5, 9, Granted(RIGHT))
    run.ask(12, 13, Granted(BOTH))
    run.ask(12, 13, Granted(frozenset()))
    run.ask(21, 22, Granted(LEFT))
    assert run.kinds() == ["granted by a state that was not"] * 4


def test_a_query_about_one_tool_follows_the_hat(run: Run) -> None:
    """Granted or denied, by the old or the new place."""
    run.apply(10, 20, 2, reach(RIGHT))
    for outcome in (Granted(LEFT), NOT_ALLOWED):
        run.ask(12, 13, outcome, tool="left")
    run.ask(21, 22, NOT_ALLOWED, tool="left")
    run.ask(21, 22, Granted(RIGHT), tool="right")
    assert run.kinds() == []
    run.ask(21, 22, Granted(LEFT), tool="left")
    run.ask(23, 24, NOT_ALLOWED, tool="right")
    run.ask(25, 26, Granted(LEFT), tool="right")
    run.ask(27, 28, REVOKED, tool="left")
    assert run.kinds() == [
        "granted by a state that was not",
        "denied while good",
        "granted by a state that was not",
        "denied for a wrong reason",
    ]


def test_a_tool_reached_through_two_moves_is_never_denied(run: Run) -> None:
    """It was reached throughout, though another tool came and went."""
    run.apply(10, 20, 2, reach(BOTH))
    run.apply(30, 40, 3, reach(LEFT))
    run.ask(5, 50, NOT_ALLOWED, tool="left")
    assert run.kinds() == ["denied while good"]


def test_a_hat_that_moved_twice_during_a_call_may_be_seen_in_each_place(run: Run) -> None:
    """Before, between and after; a call that began later sees fewer places."""
    run.apply(10, 20, 2, reach(RIGHT))
    run.apply(30, 40, 3, reach(BOTH))
    for tools in (LEFT, RIGHT, BOTH):
        run.ask(5, 50, Granted(tools))
    run.ask(21, 50, Granted(RIGHT))
    run.ask(21, 50, Granted(BOTH))
    assert run.kinds() == []
    run.ask(21, 50, Granted(LEFT))
    run.ask(41, 50, Granted(RIGHT))
    run.ask(25, 29, Granted(BOTH))
    assert run.kinds() == ["granted by a state that was not"] * 3


def test_a_hat_that_moved_back_is_right_in_the_old_place_again(run: Run) -> None:
    """The checker counts versions, not places."""
    run.apply(10, 20, 2, reach(RIGHT))
    run.apply(30, 40, 3, reach(LEFT))
    run.ask(41, 42, Granted(LEFT))
    run.ask(25, 26, Granted(RIGHT))
    assert run.kinds() == []
    run.ask(25, 26, Granted(LEFT))
    assert run.kinds() == ["granted by a state that was not"]


def test_a_move_whose_response_was_lost_may_have_happened_until_a_retry_returned(run: Run) -> None:
    """A refused attempt at a version that somebody else made changed nothing."""
    run.apply(10, 20, 2, reach(RIGHT), LOST)
    run.apply(30, 31, 2, reach(RIGHT), "ABORTED")
    run.apply(40, 50, 2, reach(RIGHT))
    for begin in (12, 25, 45):
        run.ask(begin, begin + 1, Granted(LEFT))
        run.ask(begin, begin + 1, Granted(RIGHT))
    run.ask(51, 52, Granted(RIGHT))
    assert run.kinds() == []
    run.ask(51, 52, Granted(LEFT))
    assert run.kinds() == ["granted by a state that was not"]


def test_a_later_version_settles_a_lost_move(run: Run) -> None:
    """Once it is there, neither the lost one nor the one before can be current."""
    run.apply(10, 20, 2, reach(RIGHT), LOST)
    run.apply(30, 40, 3, reach(BOTH))
    for tools in (LEFT, RIGHT, BOTH):
        run.ask(35, 36, Granted(tools))
    run.ask(41, 42, Granted(BOTH))
    assert run.kinds() == []
    run.ask(41, 42, Granted(RIGHT))
    run.ask(43, 44, Granted(LEFT))
    assert run.kinds() == ["granted by a state that was not"] * 2


def test_a_user_who_left_is_denied_and_is_good_again_when_back(run: Run) -> None:
    """With its own reason, and only while away."""
    run.apply(10, 20, 2, reach(None))
    run.ask(21, 22, MEMBER_REMOVED)
    run.apply(30, 40, 3, reach(LEFT))
    run.ask(35, 36, MEMBER_REMOVED)
    run.ask(41, 42, Granted(LEFT))
    assert run.kinds() == []
    run.ask(23, 24, Granted(LEFT))
    run.ask(43, 44, MEMBER_REMOVED)
    assert run.kinds() == ["granted by a state that was not", "denied while good"]


def test_a_deleted_workspace_is_gone(run: Run) -> None:
    """Its keys are denied, whatever they reached."""
    run.apply(10, 20, 2, None)
    run.ask(15, 16, Granted(LEFT))
    run.ask(15, 16, GONE)
    run.ask(21, 22, GONE, tool="left")
    assert run.kinds() == []
    run.ask(21, 22, Granted(LEFT))
    assert run.kinds() == ["granted by a state that was not"]


def test_a_revocation_is_the_first_reason(run: Run) -> None:
    """Before any reason of its workspace."""
    run.apply(10, 20, 2, None)
    run.revoke(12, 14)
    run.ask(21, 22, REVOKED)
    assert run.kinds() == []
    run.ask(21, 22, GONE)
    assert run.kinds() == ["denied for a wrong reason"]
