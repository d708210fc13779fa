"""The checker on hand-made histories of keys that are renewed, rotated, suspended and limited."""

from __future__ import annotations

from faults.history import FORGED, Denied, Failed, Granted, Limits
from tests.support.hand_made_history import (
    BOTH,
    EXPIRED,
    LEFT,
    LOST,
    MEMBER_REMOVED,
    NOT_ALLOWED,
    REVOKED,
    RIGHT,
    SECOND,
    SUSPENDED,
    UNKNOWN,
    Run,
    reach,
)


def test_a_renewed_secret_ends_the_one_before(run: Run) -> None:
    """The new one is good as soon as it is known; the old one may be denied from the begin of the retry on."""
    run.issue(10, 20, 2)
    run.ask(12, 13, UNKNOWN)
    run.ask(21, 22, UNKNOWN)
    run.ask(21, 22, Granted(LEFT), token=2)
    assert run.kinds() == []
    run.ask(5, 9, UNKNOWN)
    run.ask(21, 22, UNKNOWN, token=2)
    run.ask(23, 24, Granted(LEFT))
    assert run.kinds() == ["denied while good", "denied while good", "granted after its renewal"]


def test_a_key_that_was_used_and_yet_renewed_is_found(run: Run) -> None:
    """Also where the use overlapped the renewal: one of them came first, and then the other must fail."""
    run.ask(5, 6, Granted(LEFT))
    run.issue(10, 20, 2)
    assert run.kinds() == ["renewed after its use"]
    run.authorizations.clear()
    run.ask(12, 30, Granted(LEFT))
    assert run.kinds() == ["renewed after its use"]


def test_a_renewal_that_was_refused_changed_nothing(run: Run) -> None:
    """Because the key was used or revoked."""
    run.issue(10, 20, 2, code="ALREADY_EXISTS")
    run.ask(21, 22, Granted(LEFT))
    run.issue(30, 40, 3, code="FAILED_PRECONDITION")
    assert run.kinds() == []
    run.ask(41, 42, UNKNOWN)
    assert run.kinds() == ["denied while good"]


def test_a_renewal_whose_response_was_lost_may_have_happened_until_the_key_was_used(run: Run) -> None:
    """A used key is not renewed, so its first grant proves that it had not been."""
    run.issue(10, 20, 2, code=LOST)
    run.ask(21, 22, UNKNOWN)
    assert run.kinds() == []
    run.ask(31, 32, Granted(LEFT))
    run.ask(33, 34, UNKNOWN)
    assert run.kinds() == ["denied while good"]


def test_a_lost_renewal_may_work_after_the_one_that_followed_it(run: Run) -> None:
    """It may have been delayed, and then ends the secret that was returned meanwhile."""
    run.issue(10, 20, 2, code=LOST)
    run.issue(30, 40, 3)
    run.ask(41, 42, UNKNOWN, token=3)
    run.ask(41, 42, UNKNOWN)
    assert run.kinds() == []
    run.ask(41, 42, Granted(LEFT))
    assert run.kinds() == ["granted after its renewal"]


def test_of_two_renewals_at_once_either_may_be_the_last(run: Run) -> None:
    """Both returned; the first use shows which secret is good."""
    run.issue(10, 20, 2)
    run.issue(15, 25, 3)
    run.ask(26, 27, Granted(LEFT), token=2)
    run.ask(26, 27, UNKNOWN, token=3)
    assert run.kinds() == []


def test_a_forged_secret_is_never_granted(run: Run) -> None:
    """The id of a key is no secret."""
    run.ask(5, 6, Granted(LEFT), token=FORGED)
    run.ask(7, 8, REVOKED, token=FORGED)
    assert run.kinds() == ["granted with a forged secret", "denied for a wrong reason"]


def test_an_issued_key_that_is_denied_at_the_end_is_lost(run: Run) -> None:
    """It was never revoked."""
    run.ask(50, 51, UNKNOWN, last=True)
    run.listed = {"k": True}
    assert run.kinds() == ["lost"]


def test_an_issued_key_that_is_not_listed_is_lost(run: Run) -> None:
    """Even if Authorize knows it."""
    run.ask(50, 51, Granted(LEFT), last=True)
    run.listed = {}
    assert run.kinds() == ["lost"]


def test_a_listed_key_is_shown_as_it_is(run: Run) -> None:
    """Active or revoked; either, where the response of its revocation was lost."""
    run.ask(50, 51, Granted(LEFT), last=True)
    run.listed = {"k": False}
    assert run.kinds() == ["lost"]
    run.revoke(60, 61, LOST)
    for run.listed["k"] in (True, False):
        assert run.kinds() == []
    run.revoke(70, 71)
    assert run.kinds() == []
    run.listed["k"] = True
    assert run.kinds() == ["lost"]


def test_a_revoked_key_that_is_granted_at_the_end_is_found(run: Run) -> None:
    """Long after."""
    run.revoke(10, 20)
    run.ask(50, 51, Granted(LEFT), last=True)
    run.listed = {"k": False}
    assert run.kinds() == ["granted after its revocation"]


def test_at_the_end_every_token_must_be_decided(run: Run) -> None:
    """An outage is no excuse any more, and no token may be missing."""
    run.ask(50, 51, Failed("UNAVAILABLE"), last=True)
    run.issue(10, 11, key="other")
    run.listed = {"k": True, "other": True}
    assert run.kinds() == ["undecided at the end"] * 2
    run.ask(52, 53, Granted(LEFT), last=True)
    assert run.kinds() == ["undecided at the end"]


def test_a_key_whose_issue_never_returned_may_be_missing(run: Run) -> None:
    """Nobody has its token."""
    run.issue(10, 20, key="other", code=LOST)
    run.ask(50, 51, Granted(LEFT), last=True)
    run.listed = {"k": True}
    assert run.kinds() == []


def test_a_rotation_with_a_grace_is_right(run: Run) -> None:
    """Both keys are good during the grace, and the old one has expired after it."""
    run.rotate(1 * SECOND, 2 * SECOND, grace=10 * SECOND)
    run.ask(3 * SECOND, 4 * SECOND, Granted(LEFT))
    run.ask(3 * SECOND, 4 * SECOND, Granted(LEFT), key="next")
    for outcome in (Granted(LEFT), EXPIRED):
        run.ask(11 * SECOND, 12 * SECOND, outcome)
    run.ask(13 * SECOND, 14 * SECOND, EXPIRED, last=True)
    run.ask(13 * SECOND, 14 * SECOND, Granted(LEFT), key="next", last=True)
    run.listed = {"k": True, "next": True}
    assert run.kinds() == []


def test_a_key_that_is_good_after_its_grace_is_found(run: Run) -> None:
    """Also one of two attempts, of which a lost one may have been the first."""
    run.rotate(1 * SECOND, 2 * SECOND, grace=5 * SECOND, code=LOST)
    run.rotate(3 * SECOND, 4 * SECOND, 2, grace=5 * SECOND)
    for begin in (2, 5, 8):
        run.ask(begin * SECOND, (begin + 1) * SECOND, Granted(LEFT))
    run.ask(7 * SECOND, 8 * SECOND, EXPIRED)
    run.ask(10 * SECOND, 11 * SECOND, Granted(LEFT))
    assert run.kinds() == ["granted after its expiry"]


def test_a_key_that_ends_before_its_grace_is_found(run: Run) -> None:
    """And a successor that does not work at once, or expires with its predecessor."""
    run.rotate(1 * SECOND, 2 * SECOND, grace=5 * SECOND)
    run.ask(4 * SECOND, 5 * SECOND, EXPIRED)
    run.ask(3 * SECOND, 4 * SECOND, UNKNOWN, key="next")
    run.ask(10 * SECOND, 11 * SECOND, EXPIRED, key="next")
    assert run.kinds() == ["denied while good"] * 3


def test_a_revocation_comes_before_an_expiry(run: Run) -> None:
    """And so do the end of a workspace and of a membership."""
    run.rotate(1 * SECOND, 2 * SECOND)
    run.apply(3 * SECOND, 4 * SECOND, 2, reach(None))
    run.ask(5 * SECOND, 6 * SECOND, MEMBER_REMOVED)
    run.ask(5 * SECOND, 6 * SECOND, EXPIRED)
    run.revoke(7 * SECOND, 8 * SECOND)
    run.ask(9 * SECOND, 10 * SECOND, REVOKED)
    run.ask(9 * SECOND, 10 * SECOND, EXPIRED)
    assert run.kinds() == ["denied for a wrong reason"] * 2


def test_a_refused_rotation_changes_nothing(run: Run) -> None:
    """The key goes on."""
    run.rotate(1 * SECOND, 2 * SECOND, code="FAILED_PRECONDITION")
    run.ask(9 * SECOND, 10 * SECOND, Granted(LEFT))
    assert run.kinds() == []


def test_a_suspended_key_is_denied_until_it_is_resumed(run: Run) -> None:
    """While either is under way, both outcomes are right. A revocation or an expiry is said first, or instead."""
    run.suspend(10, 20, 1)
    run.suspend(30, 40, 2, resume=True)
    for begin in (15, 35):
        run.ask(begin, begin + 1, SUSPENDED)
        run.ask(begin, begin + 1, Granted(LEFT))
    run.ask(21, 22, SUSPENDED)
    run.ask(41, 42, Granted(LEFT))
    assert run.kinds() == []
    run.ask(5, 9, SUSPENDED)
    run.ask(21, 22, Granted(LEFT))
    run.ask(41, 42, SUSPENDED)
    assert run.kinds() == ["denied while good", "granted while suspended", "denied while good"]


def test_a_lost_suspension_may_take_effect_at_any_time(run: Run) -> None:
    """Also after the key was resumed, since an attempt may be delayed. It cannot undo a revocation."""
    run.suspend(10, 20, 1, code=LOST)
    run.suspend(30, 40, 1)
    run.ask(35, 36, Granted(LEFT))
    run.ask(41, 42, SUSPENDED)
    run.suspend(50, 60, 2, resume=True)
    run.ask(61, 62, SUSPENDED)
    run.ask(61, 62, Granted(LEFT))
    assert run.kinds() == []
    run.ask(41, 42, Granted(LEFT))
    run.revoke(70, 80)
    run.ask(81, 82, Granted(LEFT))
    run.ask(81, 82, SUSPENDED)
    assert run.kinds() == ["granted while suspended", "granted after its revocation", "denied for a wrong reason"]


def test_a_resume_does_not_overtake_a_revocation(run: Run) -> None:
    """Whichever returned first, and whether or not it was refused."""
    run.suspend(10, 20, 1)
    run.suspend(30, 50, 2, resume=True)
    run.suspend(60, 65, 3, resume=True, code="FAILED_PRECONDITION")
    run.revoke(35, 40)
    run.ask(36, 37, Granted(LEFT))
    run.ask(41, 42, REVOKED)
    assert run.kinds() == []
    run.ask(41, 42, Granted(LEFT))
    run.ask(51, 52, Granted(LEFT))
    assert run.kinds() == ["granted after its revocation"] * 2


def test_a_narrowed_key_reaches_no_more_than_its_limit(run: Run) -> None:
    """From the return of the change on, until it is widened; a refused attempt changes nothing."""
    run.apply(5, 6, 2, reach(BOTH))
    run.limit(10, 20, 1, Limits(hats=LEFT))
    run.limit(25, 26, 2, Limits(hats=frozenset()), "ABORTED")
    run.limit(30, 40, 2, Limits())
    for tools in (LEFT, BOTH):
        run.ask(15, 16, Granted(tools))
        run.ask(35, 36, Granted(tools))
    run.ask(21, 22, Granted(LEFT))
    run.ask(21, 22, NOT_ALLOWED, tool="right")
    run.ask(41, 42, Granted(BOTH))
    assert run.kinds() == []
    run.ask(21, 22, Granted(BOTH))
    run.ask(23, 24, Granted(RIGHT), tool="right")
    run.ask(41, 42, Granted(LEFT))
    assert run.kinds() == ["granted by a state that was not"] * 3


def test_a_key_is_used_from_its_networks_only(run: Run) -> None:
    """An address outside, and none at all, are denied before anything is said of tools; not before a suspension."""
    near, far = "10.0.0.7", "192.0.2.7"
    elsewhere = Denied("SOURCE_NOT_ALLOWED")
    run.limit(10, 20, 1, Limits(networks=frozenset({"10.0.0.0/8", "192.0.2.0/24"})))
    run.limit(30, 40, 2, Limits(networks=frozenset({"10.0.0.0/8"})))
    run.ask(5, 6, Granted(LEFT), source=far)
    run.ask(21, 22, Granted(LEFT), source=far)
    run.ask(21, 22, elsewhere)
    run.ask(41, 42, Granted(LEFT), source=near)
    run.ask(41, 42, elsewhere, source=far)
    run.ask(41, 42, elsewhere, source=far, tool="right")
    run.suspend(50, 60, 1)
    run.ask(61, 62, SUSPENDED, source=far)
    assert run.kinds() == []
    run.ask(5, 6, elsewhere, source=far)
    run.ask(21, 22, Granted(LEFT))
    run.ask(41, 42, Granted(LEFT), source=far)
    assert run.kinds() == ["denied while good"] + ["granted by a state that was not"] * 2
