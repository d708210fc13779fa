"""Which keys to list, count or revoke, and in which order."""

import re
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import Enum

from skilder_keys.domain.fields import MAX_FOREIGN_ID, MAX_KEY_DESCRIPTION, Violations, quoted
from skilder_keys.domain.ids import RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.labels import check_selectors
from skilder_keys.domain.principal import Principal
from skilder_keys.domain.token import HINT_PATTERN, KeyType

MAX_FILTER_VALUES = 100
MAX_COUNTED = 1_000_000

_IN_WORDS = re.compile(r"[^\W_]")


class KeyOrder(Enum):
    """The order of a list of keys."""

    NEWEST = "newest"
    LEAST_RECENTLY_USED = "least_recently_used"
    EXPIRES_NEXT = "expires_next"


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Some keys of a workspace. A key must match each field that is not None, and one value of each tuple but `labels`.

    Attributes:
        family_id: Only the keys of the family with this id, in its canonical spelling.
        hint: Only the key with this hint.
        text: Only keys whose description has all words of this text.
        labels: Only keys with all these labels: `name=value`, or `name` for any value.
        created_after: Only keys that were issued at or after this time.
        created_before: Only keys that were issued before this time.
        expires_after: Only keys that expire at or after this time.
        expires_before: Only keys that expire before this time.
        unused_since: Only keys that were last used before this time or, if never used, issued before it.
        unlimited: Only keys that lack one of these limits.
        violating: Only keys that break one of these rules of the present key policy.
    """

    workspace_id: WorkspaceId
    types: tuple[KeyType, ...] | None = None
    states: tuple[KeyState, ...] | None = None
    user_ids: tuple[UserId, ...] | None = None
    runtime_ids: tuple[RuntimeId, ...] | None = None
    created_by: Principal | None = None
    family_id: str | None = None
    hint: str | None = None
    text: str | None = None
    labels: tuple[str, ...] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    expires_after: datetime | None = None
    expires_before: datetime | None = None
    unused_since: datetime | None = None
    unlimited: tuple[KeyLimit, ...] | None = None
    violating: tuple[PolicyRule, ...] | None = None

    @property
    def is_everything(self) -> bool:
        """Whether no field but the workspace is set, so that every key matches."""
        return all(getattr(self, field.name) is None for field in fields(self) if field.name != "workspace_id")

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.identifier("workspace_id", self.workspace_id)
        for name in ("user_ids", "runtime_ids"):
            values: tuple[str, ...] = getattr(self, name) or ()
            violations.count(f"filter.{name}", values, maximum=MAX_FILTER_VALUES)
            for index, value in enumerate(values[:MAX_FILTER_VALUES]):
                violations.foreign_id(f"filter.{name}[{index}]", value)
        if self.created_by is not None:
            violations.text("filter.created_by.id", self.created_by.id, maximum=MAX_FOREIGN_ID)
        violations.key_id("filter.family_id", self.family_id)
        if self.hint is not None and not HINT_PATTERN.fullmatch(self.hint):
            violations.add("filter.hint", f"is {quoted(self.hint)}, which is not a hint, such as WSK_4mBq8Jd41x")
        if self.text is not None:
            violations.text("filter.text", self.text, maximum=MAX_KEY_DESCRIPTION)
            if self.text and not _IN_WORDS.search(self.text):
                violations.add("filter.text", f"is {quoted(self.text)}, which has no word: write letters or digits")
        violations.count("filter.labels", self.labels or (), maximum=MAX_FILTER_VALUES)
        check_selectors(violations, "filter.labels", (self.labels or ())[:MAX_FILTER_VALUES])

    def of_user(self, user_id: UserId) -> "KeyFilter":
        """Return the filter for those of the keys that are tied to a user."""
        narrowed = self.user_ids is None or user_id in self.user_ids
        return replace(self, user_ids=(user_id,) if narrowed else ())


@dataclass(frozen=True, slots=True)
class KeyListing:
    """What is listed: some keys, and their order."""

    filter: KeyFilter
    order: KeyOrder


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many keys have a type and a state."""

    type: KeyType
    state: KeyState
    count: int


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """How many keys there are of each type and state.

    Attributes:
        partial: Whether the count stopped at MAX_COUNTED keys, or took too long, so that there may be more.
    """

    counts: tuple[KeyCount, ...]
    partial: bool
