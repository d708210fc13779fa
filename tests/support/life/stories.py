"""What happens in a life of keys: stories in which each rule about keys matters, in random order, and random steps."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from skilder.keys.v1.key_service_pb2 import PREVIOUS_KEYS_KEEP, PREVIOUS_KEYS_REVOKE
from tests.support.life.choices import EVERY_HAT

if TYPE_CHECKING:
    import random

DAY = timedelta(days=1)
MOMENT = timedelta(seconds=0.4)


class Step(NamedTuple):
    """A step.

    Attributes:
        name: The name of its method.
        said: What is not left to chance.
        of: Which generation of the key it is about: `first` or `last`; empty for any.
        in_story: Whether it is about the family of the step before.
    """

    name: str
    said: dict[str, Any]
    of: str = ""
    in_story: bool = False


def step(name: str, of: str = "", **said: Any) -> Step:
    """Return a step of a story."""
    return Step(name, said, of, in_story=True)


NEW: dict[str, Any] = {"lifetime": None, "networks": ()}
"""A key without limits but those that a story gives it."""
LONG: dict[str, Any] = {"grace": 2 * DAY, "lifetime": None}
"""A rotation after which both keys live on."""
STORIES: tuple[tuple[Step, ...], ...] = (
    # A family ends whose last key never expires.
    (step("issue", kind="user", **NEW), step("rotate", **LONG), step("revoke_family", "first")),
    # A rotated key expires, and its successor is limited as it was.
    (
        step("issue", kind="workspace", lifetime=None, hats=EVERY_HAT, networks=("10.0.0.0/8",)),
        step("rotate", grace=MOMENT, lifetime=None),
        step("pass_time"),
    ),
    # A suspended key is in memory, is not rotated, is resumed and suspended again, and revoked for good.
    (
        step("issue", kind="workspace", **NEW),
        step("suspend"),
        step("rotate", **LONG),
        step("resume"),
        step("suspend"),
        step("revoke"),
        step("resume"),
    ),
    # A key is narrowed, has a successor, and both are widened apart.
    (
        step("issue", kind="workspace", hats=None, **NEW),
        step("update", hats=EVERY_HAT),
        step("update", networks=("192.0.2.0/24",)),
        step("rotate", **LONG),
        step("update", "first", hats=frozenset()),
        step("update", "last", networks=()),
    ),
    # A rotated key gets another expiry, which counts for its next successor.
    (
        step("issue", kind="user", **NEW),
        step("rotate", **LONG),
        step("update", "first", expires_at=DAY),
        step("revoke", "last"),
        step("rotate", "first", grace=MOMENT, lifetime=None),
        step("update", "last", expires_at=MOMENT),
        step("pass_time"),
    ),
    # A runtime instance rotates its key, not twice and not for longer, and is issued another one.
    (
        step("issue", kind="runtime", previous=PREVIOUS_KEYS_KEEP, **NEW),
        step("rotate_own", **LONG),
        step("rotate_own", "first", **LONG),
        step("rotate_own", "last", lifetime=31 * DAY),
        step("suspend", "last"),
        step("rotate_own", "last"),
        step("issue", kind="again", previous=PREVIOUS_KEYS_REVOKE, **NEW),
    ),
    # A key policy limits new keys, changes and successors, and no key that was there.
    (
        step("issue", kind="workspace", hats=None, **NEW),
        step("policy", max_lifetime=2 * DAY, require_hat_limit=True),
        step("rotate", **LONG),
        step("issue", kind="user", **NEW),
        step("rotate", **LONG),
        step("update", "first", expires_at=9 * DAY),
        step("update", "last", expires_at=None),
        step("lift_policies"),
    ),
    # Processes lose their memory, or are replaced, between the changes.
    (
        step("issue", kind="user", **NEW),
        step("restart"),
        step("suspend"),
        step("forget"),
        step("resume"),
        step("revoke_keys", text="bot"),
    ),
)
ONCE = (
    "issue",
    "rotate",
    "update",
    "suspend",
    "resume",
    "revoke",
    "revoke_keys",
    "apply",
    "change",
    "delete",
    "policy",
)
"""The steps by chance of a short life."""
OFTEN = (
    *ONCE,
    "issue",
    "rotate",
    "rotate",
    "rotate_own",
    "update",
    "update",
    "change",
    "pass_time",
    "forget",
    "restart",
)


def life(source: random.Random, chapters: int) -> list[Step]:
    """Return the steps of a life: in each chapter all stories, in another order, and steps by chance between them.

    A key policy that chance has set ends before the next story, which it would cut short.
    """
    steps: list[Step] = []
    for _ in range(chapters):
        by_chance = [*(ONCE if chapters == 1 else OFTEN * 2)]
        source.shuffle(by_chance)
        each = -(-len(by_chance) // len(STORIES))
        for place, story in enumerate(source.sample(STORIES, len(STORIES))):
            steps += story
            steps += [Step(name, {}) for name in by_chance[place * each : (place + 1) * each]]
            steps += [Step("thin_out", {}), Step("lift_policies", {})]
    return steps
