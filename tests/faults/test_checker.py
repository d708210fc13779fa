"""The checker on hand-made histories: right ones pass, and every kind of wrong one is found."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from faults.checker import check
from faults.history import (
    EVERYBODY,
    FORGED,
    OK,
    Apply,
    Authorize,
    Change,
    Denied,
    Failed,
    Granted,
    History,
    Issue,
    Limit,
    Outcome,
    Reach,
    Revoke,
    Rotate,
    Suspend,
)

LOST = "UNAVAILABLE"
EXPIRED, SUSPENDED = Denied("EXPIRED"), Denied("SUSPENDED")
SECOND = 10**9
UNKNOWN, REVOKED, GONE = Denied("UNKNOWN"), Denied("REVOKED"), Denied("WORKSPACE_GONE")
MEMBER_REMOVED, NOT_ALLOWED = Denied("MEMBER_REMOVED"), Denied("TOOL_NOT_ALLOWED")
LEFT, RIGHT, BOTH = (frozenset(tools) for tools in (["left"], ["right"], ["left", "right"]))


def reach(bob: frozenset[str] | None) -> Reach:
    """Return a workspace in which bob reaches these tools, or is not a member."""
    return {EVERYBODY: BOTH} | ({} if bob is None else {"bob": bob})


@dataclass
class Run:
    """A history under construction: a workspace from time 2 on, bob's key from time 4 on. The times are invented."""

    changes: list[Change] = field(default_factory=list)
    authorizations: list[Authorize] = field(default_factory=list)
    listed: dict[str, bool] | None = None

    def __post_init__(self) -> None:
        self.apply(1, 2, 1, reach(LEFT))
        self.issue(3, 4)

    def issue(self, begin: int, end: int, attempt: int = 1, *, code: str = OK, key: str = "k") -> None:
        """Add an attempt to issue a key of bob's."""
        self.changes.append(
            Issue(key=key, attempt=attempt, workspace="w", subject="bob", begin=begin, end=end, code=code)
        )

    def rotate(self, begin: int, end: int, attempt: int = 1, *, grace: int = 0, code: str = OK) -> None:
        """Add an attempt to rotate the key, to `next`."""
        self.changes.append(
            Rotate(
                key="next",
                attempt=attempt,
                workspace="w",
                subject="bob",
                predecessor="k",
                grace=grace,
                begin=begin,
                end=end,
                code=code,
            )
        )

    def revoke(self, begin: int, end: int, code: str = OK) -> None:
        """Add an attempt to revoke the key."""
        self.changes.append(Revoke(key="k", begin=begin, end=end, code=code))

    def apply(self, begin: int, end: int, version: int, reach: Reach | None, code: str = OK) -> None:
        """Add an attempt to apply a version of the workspace."""
        self.changes.append(Apply(workspace="w", version=version, reach=reach, begin=begin, end=end, code=code))

    def suspend(self, begin: int, end: int, number: int, *, resume: bool = False, code: str = OK) -> None:
        """Add an attempt to suspend the key, or to resume it."""
        self.changes.append(Suspend(key="k", number=number, suspended=not resume, begin=begin, end=end, code=code))

    def limit(self, begin: int, end: int, number: int, hats: frozenset[str] | None, code: str = OK) -> None:
        """Add an attempt to limit the key to hats."""
        self.changes.append(Limit(key="k", number=number, hats=hats, begin=begin, end=end, code=code))

    def ask(
        self,
        begin: int,
        end: int,
        outcome: Outcome,
        *,
        token: int = 1,
        tool: str = "",
        last: bool = False,
        key: str = "k",
    ) -> None:
        """Add a query about a token of the key."""
        self.authorizations.append(
            Authorize(key=key, token=token, begin=begin, end=end, outcome=outcome, tool=tool, last=last)
        )

    def kinds(self) -> list[str]:
        """Return the kinds of violations that the checker finds."""
        return [each.kind for each in check(History(tuple(self.changes), tuple(self.authorizations), self.listed))]


@pytest.fixture
def run() -> Run:
    """A history with a workspace and a key."""
    return Run()


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
    run.limit(10, 20, 1, LEFT)
    run.limit(25, 26, 2, frozenset(), "ABORTED")
    run.limit(30, 40, 2, None)
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
