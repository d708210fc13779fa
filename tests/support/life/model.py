"""A plain model of keys: what each may do at a time, and which changes of it are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE
from tests.support.life.policies import planned_lifetime, refuse_change, refuse_new, refuse_successor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from skilder.keys.v1.key_service_pb2 import KeyFilter
    from skilder.keys.v1.workspace_pb2 import Workspace


class Reached(NamedTuple):
    """The ids of the hats and of the tools that a key reaches."""

    hats: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()


class Verdict(NamedTuple):
    """What Authorize decides about a key.

    Attributes:
        denial: Why the key is denied, without the prefix of DenialReason; empty if it is granted.
        reached: What it reaches, if all was asked for.
    """

    denial: str
    reached: Reached = Reached()


@dataclass
class ModelKey:
    """A key.

    Attributes:
        hats: The hats to which it is limited; None for every hat.
        networks: The networks to which it is limited; empty for any.
        expires_at: When it expires; None for never.
        planned_end: When it was to expire before a rotation gave it less time; None for never.
    """

    id: str
    type: int
    workspace_id: str
    description: str
    labels: dict[str, str]
    networks: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    family_id: str
    planned_end: datetime | None = None
    hats: frozenset[str] | None = None
    user_id: str = ""
    runtime_id: str = ""
    predecessor_id: str = ""
    suspended: bool = False
    revoked: bool = False

    def is_live(self, now: datetime) -> bool:
        """Return whether it is neither revoked nor expired."""
        return not self.revoked and (self.expires_at is None or now < self.expires_at)


@dataclass
class KeyModel:
    """Keys and their workspaces, and nothing else: no memory, no other process and no connection.

    Attributes:
        workspaces: The workspaces that exist, by their ids.
        keys: The keys by their ids, in the order of their issue.
    """

    workspaces: dict[str, Workspace] = field(default_factory=dict)
    keys: dict[str, ModelKey] = field(default_factory=dict)

    def state(self, key: ModelKey, now: datetime) -> str:
        """Return the state of a key, without the prefix of KeyState."""
        workspace = self.workspaces.get(key.workspace_id)
        if key.revoked:
            return "REVOKED"
        if workspace is None:
            return "WORKSPACE_GONE"
        if key.user_id and key.user_id not in {member.user_id for member in workspace.members}:
            return "MEMBER_REMOVED"
        if not key.is_live(now):
            return "EXPIRED"
        return "SUSPENDED" if key.suspended else "ACTIVE"

    def verdict(self, key: ModelKey, now: datetime, source_ip: str, tool_id: str | None = None) -> Verdict:
        """Return what Authorize decides about a key, or about one tool for it."""
        state = self.state(key, now)
        if state != "ACTIVE":
            return Verdict(state)
        if not _is_within(source_ip, key.networks):
            return Verdict("SOURCE_NOT_ALLOWED")
        reached = self.reached(key)
        if tool_id is None:
            return Verdict("", reached)
        return Verdict("" if tool_id in reached.tools else "TOOL_NOT_ALLOWED")

    def reached(self, key: ModelKey) -> Reached:
        """Return what a key reaches in its workspace, whatever its state is."""
        workspace = self.workspaces.get(key.workspace_id)
        if workspace is None or key.type == key_pb2.KEY_TYPE_RUNTIME:
            return Reached()
        teams = _teams_of(workspace, key.user_id) if key.user_id else {team.id for team in workspace.teams}
        hats = [
            hat
            for hat in workspace.hats
            if (hat.audience == HAT_AUDIENCE_WORKSPACE or teams & set(hat.team_ids))
            and (key.hats is None or hat.id in key.hats)
        ]
        skill_ids = {skill_id for hat in hats for skill_id in hat.skill_ids}
        tool_ids = {tool_id for skill in workspace.skills if skill.id in skill_ids for tool_id in skill.tool_ids}
        return Reached(
            frozenset(hat.id for hat in hats),
            frozenset(tool.id for tool in workspace.tools if tool.id in tool_ids and not tool.disabled),
        )

    def family(self, key: ModelKey) -> Iterator[ModelKey]:
        """Yield all generations of a key."""
        return (each for each in self.keys.values() if each.family_id == key.family_id)

    def matching(self, workspace_id: str, wanted: KeyFilter, now: datetime) -> set[str]:
        """Return the ids of the keys that RevokeKeys with this filter revokes."""
        states = {key_pb2.KeyState.Name(each).removeprefix("KEY_STATE_") for each in wanted.states}
        return {
            key.id
            for key in self.keys.values()
            if key.workspace_id == workspace_id
            and not key.revoked
            and (not wanted.types or key.type in wanted.types)
            and (not states or self.state(key, now) in states)
            and (not wanted.user_ids or key.user_id in wanted.user_ids)
            and (not wanted.family_id or key.family_id == wanted.family_id)
            and set(wanted.text.split()) <= set(key.description.split())
            and all(_has_label(key, *label.split("=")) for label in wanted.labels)
        }

    def refuse_issue(self, wanted: dict[str, Any], now: datetime, *, is_said: bool) -> str:
        """Return why a key is not issued, as ErrorReason says it, or an empty text if it is issued.

        Args:
            wanted: The values of the key, and its `lifetime`.
            now: The time.
            is_said: Whether the request says what becomes of the keys that the runtime instance has.
        """
        if wanted["workspace_id"] not in self.workspaces:
            return "WORKSPACE_DELETED"
        if not is_said and any(self.of_runtime(wanted["workspace_id"], wanted.get("runtime_id", ""), now)):
            return "RUNTIME_HAS_KEYS"
        return refuse_new(self, wanted, now)

    def of_runtime(self, workspace_id: str, runtime_id: str, now: datetime) -> Iterator[ModelKey]:
        """Yield the keys of a runtime instance that are neither revoked nor expired."""
        for key in self.keys.values():
            if runtime_id and (key.workspace_id, key.runtime_id) == (workspace_id, runtime_id) and key.is_live(now):
                yield key

    def refuse_rotation(self, key: ModelKey, lifetime: timedelta | None, now: datetime) -> str:
        """Return why a key is not rotated, or an empty text; `lifetime` is that of the successor, if it is said."""
        if self.state(key, now) != "ACTIVE":
            return "KEY_NOT_ACTIVE"
        successors = (each for each in self.keys.values() if each.predecessor_id == key.id)
        if any(each.is_live(now) for each in successors):
            return "KEY_ALREADY_ROTATED"
        return refuse_successor(self, key, lifetime)

    def refuse_own_rotation(self, key: ModelKey, lifetime: timedelta | None, now: datetime) -> str:
        """Return why a key that calls from this machine does not rotate itself, or an empty text."""
        if key.type != key_pb2.KEY_TYPE_RUNTIME or self.state(key, now) != "ACTIVE" or key.networks:
            return "UNAUTHENTICATED"
        refused, planned = self.refuse_rotation(key, None, now), planned_lifetime(key)
        if not refused and lifetime is not None and planned is not None and lifetime > planned:
            return "INVALID_REQUEST"
        return refused or self.refuse_rotation(key, lifetime, now)

    def refuse_update(self, key: ModelKey, new: dict[str, Any], now: datetime) -> str:
        """Return why a key is not updated with new values, or an empty text."""
        if key.workspace_id not in self.workspaces:
            return "WORKSPACE_DELETED"
        if key.revoked:
            return "KEY_NOT_ACTIVE"
        expires_at = new.get("expires_at")
        if expires_at not in (None, key.expires_at) and expires_at <= now:
            return "INVALID_REQUEST"
        return refuse_change(self, key, new, now)

    def refuse_suspension(self, key: ModelKey, _now: datetime) -> str:
        """Return why a key is neither suspended nor resumed, or an empty text."""
        return "KEY_NOT_ACTIVE" if key.revoked else ""


def _teams_of(workspace: Workspace, user_id: str) -> set[str]:
    """Return the teams of a user, and all above them."""
    parents = {team.id: team.parent_id for team in workspace.teams}
    found: set[str] = set()
    for member in workspace.members:
        for team_id in member.team_ids if member.user_id == user_id else ():
            above = team_id
            while above:
                found.add(above)
                above = parents[above]
    return found


def _is_within(source_ip: str, networks: tuple[str, ...]) -> bool:
    if not networks:
        return True
    if not source_ip:
        return False
    address = ip_address(source_ip.removeprefix("::ffff:"))
    return any(address in ip_network(each) for each in networks)


def _has_label(key: ModelKey, name: str, value: str | None = None) -> bool:
    return name in key.labels and value in (None, key.labels[name])
