"""What a report says: sections with findings, each with the command that would mend it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from skilder.keys.v1 import authorization_service_pb2, key_pb2
from skilder_keys.cli.enums import short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from skilder_keys.cli.report.facts import Facts, Reach

IDLE = timedelta(days=90)
"""A key that was not used for so long may not be needed."""
NEW = timedelta(days=7)
"""A key that was issued more recently may be in nobody's hands yet."""
EXPIRING = timedelta(days=14)
_LIMIT = 20
"""The most findings of a section that are shown."""
_REASONS = authorization_service_pb2.DenialReason.DESCRIPTOR


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at: what it is about, why, and the command that would mend it."""

    subject: str
    why: str
    command: str


@dataclass(slots=True)
class Section:
    """Findings of one kind.

    Attributes:
        title: What they have in common.
        about: Why it matters, in a sentence.
        left_out: How many more findings there are.
    """

    title: str
    about: str
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0

    @classmethod
    def of(cls, title: str, about: str, findings: Iterable[Finding]) -> Section:
        """Make a section of the first of some findings."""
        found = list(findings)
        return cls(title, about, found[:_LIMIT], max(0, len(found) - _LIMIT))


def sections(facts: Facts, now: datetime) -> list[Section]:
    """Return all sections, also those without a finding. A key that should be revoked is in no other one."""
    unused, idle = list(_unused(facts, now)), list(_idle(facts, now))
    done = {key.id for key in unused} | {key.id for key, _ in idle}
    return [
        Section.of(
            "Never used",
            "A key that nobody uses can only be stolen.",
            (_revoke(key, f"issued {_ago(key.created_at.ToDatetime(tzinfo=UTC), now)} ago") for key in unused),
        ),
        Section.of(
            "Idle for 90 days",
            "What used it may be gone.",
            (_revoke(key, f"last used {_ago(used, now)} ago") for key, used in idle),
        ),
        Section.of(
            "Expires within 14 days",
            "Whatever uses it stops working then, unless it gets a successor.",
            (
                Finding(_named(key), f"in {(at - now).days} days", _command("keys", "rotate", key.id))
                for key, at in _expiring(facts, now)
                if key.id not in done
            ),
        ),
        Section.of(
            "Without an expiry",
            "A key that leaked works until somebody notices.",
            (
                Finding(
                    _named(key), "lives until it is revoked", _command("keys", "update", key.id, "--expires-in", "90d")
                )
                for key in facts.keys
                if not key.HasField("expires_at") and key.id not in done
            ),
        ),
        Section.of(
            "Used from several addresses in 7 days",
            "One agent has one key: then each can be revoked alone, and the record says who did what.",
            _shared(facts),
        ),
        Section.of("Denied in 30 days", "Something uses a key in a way that it may not be used.", _denied(facts)),
        Section.of(
            "Tools that nobody used in 90 days",
            "What is switched off cannot be misused.",
            (
                Finding(tool, "no call", _command("workspace", "tool", "disable", "--", facts.workspace_id, tool))
                for tool in facts.unused_tools
            ),
        ),
        Section.of(
            "Keys that reach more than they use",
            "Of the keys with the most calls in 90 days. A limit to the hats that are used lets the key do no more.",
            map(_narrow, facts.reaches),
        ),
    ]


def _unused(facts: Facts, now: datetime) -> Iterator[key_pb2.Key]:
    for key in facts.keys:
        if not key.HasField("last_used_at") and now - key.created_at.ToDatetime(tzinfo=UTC) >= NEW:
            yield key


def _idle(facts: Facts, now: datetime) -> Iterator[tuple[key_pb2.Key, datetime]]:
    for key in facts.keys:
        used = key.last_used_at.ToDatetime(tzinfo=UTC)
        if key.HasField("last_used_at") and now - used >= IDLE:
            yield key, used


def _expiring(facts: Facts, now: datetime) -> Iterator[tuple[key_pb2.Key, datetime]]:
    for key in facts.keys:
        at = key.expires_at.ToDatetime(tzinfo=UTC)
        if key.HasField("expires_at") and at - now < EXPIRING and not key.successor_id:
            yield key, at


def _shared(facts: Facts) -> Iterator[Finding]:
    sources: dict[str, set[str]] = defaultdict(set)
    for each in facts.recent:
        if each.last_source_ip:
            sources[each.key_id].add(each.last_source_ip)
    for key in facts.keys:
        if len(sources[key.id]) > 1:
            shown = ", ".join(sorted(sources[key.id])[:3])
            yield Finding(_named(key), f"{len(sources[key.id])} addresses: {shown}", _another(key))


def _another(key: key_pb2.Key) -> str:
    """Return the command that issues another key like this one."""
    options = ["--type", "user", "--user", key.user_id] if key.type == key_pb2.KEY_TYPE_USER else []
    if key.type == key_pb2.KEY_TYPE_RUNTIME:
        return _command("keys", "explain", key.id)
    hats = [part for hat in key.hat_limit.hat_ids for part in ("--hat", hat)]
    options += hats if key.HasField("hat_limit") else ["--all-hats"]
    return _command("keys", "issue", "--workspace", key.workspace_id, *options, "--", f"{key.description} (2)")


def _denied(facts: Facts) -> Iterator[Finding]:
    for (key_id, reason), count in sorted(facts.denied.items(), key=lambda item: -item[1]):
        key = next((key for key in facts.keys if key.id == key_id), None)
        name = short_name(_REASONS, reason)
        yield Finding(
            key_id if key is None else _named(key),
            f"{count:,} calls: {name}",
            _MENDED.get(name, _look)(facts.workspace_id, key_id, name),
        )


def _look(workspace_id: str, key_id: str, reason: str) -> str:
    return _command("activity", "list", "--workspace", workspace_id, "--key", key_id, "--reason", reason)


_MENDED: dict[str, Callable[[str, str, str], str]] = {
    "tool_not_allowed": lambda _, key_id, __: _command("keys", "explain", key_id),
    "suspended": lambda _, key_id, __: _command("keys", "resume", key_id),
}


def _narrow(reach: Reach) -> Finding:
    hats = [part for hat in reach.hats for part in ("--hat", hat)]
    return Finding(
        _named(reach.key),
        f"used {len(reach.used)} of {reach.tools} tools",
        _command("keys", "update", reach.key.id, *hats),
    )


def _revoke(key: key_pb2.Key, why: str) -> Finding:
    return Finding(_named(key), why, _command("keys", "revoke", key.id))


def _named(key: key_pb2.Key) -> str:
    return f"{key.hint} {key.description}"


def _ago(moment: datetime, now: datetime) -> str:
    days = (now - moment).days
    return f"{days} day{'' if days == 1 else 's'}"


def _command(*parts: str) -> str:
    return shlex.join(["skilder-keys", *parts])
