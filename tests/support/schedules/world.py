"""A database of which every answer shows at which epochs its parts were changed last.

So an answer that mixes two states is like that of no state at all.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization.tool_sets import SharedToolSet
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import UserId
from skilder_keys.domain.keys import Credential, KeyFacts
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.tool_sets import ToolName, ToolSetView, Variant
from tests.support.memory import ACME, GLOBEX, minted, touched_key, touched_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from skilder_keys.app.authorization.memory import Access
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.storage.fence import Touch
    from skilder_keys.storage.snapshots import Wanted

    Answer = tuple[object, ...]
    """The name of an answer, and all values that it shows."""
    Values = Sequence[tuple[str, int]]
    """The parts of a kind, by id, with their values."""
    Row = tuple[str, str, str, str | None, tuple[str, ...]]
    """The kind of a row, the id of its part, its name, its text, and the ids it links to."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFETIME = 3.0
"""Seconds from a change to the expiry of a key that expires: more than a lease."""
_EXPIRING, _SUSPENDED = 2, 5
BITS = 3
MAX_EPOCH = 2**BITS - 1
ANN, BOB = UserId("ann"), UserId("bob")
TWO = ("p", "q")
"""The ids of two hats, two skills and two tools. Hat p has skill p, which has tool p."""


class Client(NamedTuple):
    """A key that callers use."""

    key_id: KeyId
    text: str
    type: KeyType
    workspace_id: WorkspaceId
    user_id: UserId | None
    touch: Touch


def _client(type_: KeyType, workspace_id: WorkspaceId, user_id: UserId | None) -> Client:
    token = minted(type_)
    return Client(token.key_id, token.reveal(), type_, workspace_id, user_id, touched_key(token.key_id))


CLIENTS = (
    _client(KeyType.USER, ACME, ANN),
    _client(KeyType.USER, ACME, BOB),
    _client(KeyType.WORKSPACE, ACME, None),
    _client(KeyType.USER, GLOBEX, ANN),
)
_IDS: Mapping[Part, tuple[str | None, ...]] = {
    Part.MEMBER: (ANN, BOB),
    Part.TEAM: ("base",),
    **dict.fromkeys((Part.HAT, Part.SKILL, Part.TOOL), TWO),
}
PARTS = {each: [touched_part(part, id_, each) for part, ids in _IDS.items() for id_ in ids] for each in (ACME, GLOBEX)}
"""What the changes of single parts of a workspace touch."""


class World:
    """A state of the database: for each key and part, the epoch of the last change that touched it, and when it was."""

    def __init__(self, values: Mapping[Touch, int], times: Mapping[Touch, float]) -> None:
        self._values = values
        self._times = times
        self._answers: dict[tuple[str, bool], Answer] = {}

    @classmethod
    def first(cls) -> World:
        """Return the state before all changes."""
        whole = [touched_part(Part.WORKSPACE, None, each) for each in PARTS]
        values = dict.fromkeys([*(client.touch for client in CLIENTS), *whole, *PARTS[ACME], *PARTS[GLOBEX]], 0)
        return cls(values, dict.fromkeys(values, 0.0))

    def after(self, touches: tuple[Touch, ...], epoch: int, now: float) -> World:
        """Return the state after a change at a time."""
        touched = [each for touch in touches for each in _expanded(touch)]
        return World({**self._values, **dict.fromkeys(touched, epoch)}, {**self._times, **dict.fromkeys(touched, now)})

    def answer(self, client: Client, now: float) -> Answer:
        """Return the answer for a key at a time, by the rule as it is written."""
        expired = self.seconds_left(client, now) <= 0
        if (client.text, expired) not in self._answers:
            self._answers[client.text, expired] = self._answer(client, expired=expired)
        return self._answers[client.text, expired]

    def _answer(self, client: Client, *, expired: bool) -> Answer:
        value, at = self._values[client.touch], client.workspace_id
        if _is_off(value):
            return "REVOKED", value
        if self.deleted(at):
            return "WORKSPACE_GONE", value
        teams = (*_teams("m", MAX_EPOCH), *_teams("t", MAX_EPOCH))
        if client.user_id is not None:
            member = self._value(at, Part.MEMBER, client.user_id)
            if self.has_left(client):
                return "MEMBER_REMOVED", value
            teams = (*_teams("m", member), *_teams("t", self._value(at, Part.TEAM, "base")))
        if expired or self.suspended(client):
            return "EXPIRED" if expired else "SUSPENDED", value
        hats, skills, tools = (
            {each: self._value(at, part, each) for each in TWO} for part in (Part.HAT, Part.SKILL, Part.TOOL)
        )
        return (
            "granted",
            value,
            tuple(sorted({**{each: str(value) for each, value in hats.items()}, **dict.fromkeys(teams, "")}.items())),
            tuple((each, str(value)) for each, value in skills.items()),
            tuple((each, str(value)) for each, value in tools.items() if not _is_off(value)),
        )

    def deleted(self, workspace_id: WorkspaceId) -> bool:
        """Return whether a workspace is deleted. Each change of all of it deletes or restores it."""
        return self._value(workspace_id, Part.WORKSPACE, None) % 2 == 1

    def rows(self, workspace_id: WorkspaceId, wanted: Wanted) -> Iterator[dict[str, Any]]:
        """Yield what a read of some parts of a workspace finds, as in `storage.snapshots`."""
        for part, ids in wanted.items():
            values = [(str(id_), self._value(workspace_id, part, id_)) for id_ in _IDS[part]]
            for kind, id_, name, text, links in _ROWS[part](values):
                if part is Part.TEAM or ids is None or id_ in ids:
                    yield {"kind": kind, "id": id_, "name": name, "text": text, "ids": links}

    def credential(self, client: Client, version: int, now: float, *, used: bool) -> Credential:
        """Return a key, as the database has it at a time, with the version of its workspace."""
        key = KeyFacts(
            id=client.key_id,
            type=client.type,
            workspace_id=client.workspace_id,
            user_id=client.user_id,
            runtime_id=None,
            description=str(self._values[client.touch]),
            hat_ids=None,
            networks=None,
            expires_at=None,
            family_id=client.key_id,
            revoked=self.revoked(client),
            suspended=self.suspended(client),
        )
        left = self.seconds_left(client, now)
        return Credential(
            key,
            "hash",
            version,
            unused_seconds=1.0 if used else None,
            seconds_left=None if left == math.inf else left,
        )

    def revoked(self, client: Client) -> bool:
        """Return whether a key is revoked."""
        return _is_off(self._values[client.touch])

    def suspended(self, client: Client) -> bool:
        """Return whether a key is suspended."""
        return self._values[client.touch] == _SUSPENDED

    def seconds_left(self, client: Client, now: float) -> float:
        """Return how long a key is still valid: some expire a little later than the change that made them so."""
        touch = client.touch
        return self._times[touch] + LIFETIME - now if self._values[touch] % 4 == _EXPIRING else math.inf

    def usable(self, client: Client, now: float) -> bool:
        """Return whether a key may have a first use."""
        return not self.revoked(client) and not self.suspended(client) and self.seconds_left(client, now) > 0

    def has_left(self, client: Client) -> bool:
        """Return whether the user of a key is no member."""
        assert client.user_id is not None
        return _is_off(self._value(client.workspace_id, Part.MEMBER, client.user_id))

    def _value(self, workspace_id: WorkspaceId, part: Part, part_id: str | None) -> int:
        return self._values[touched_part(part, part_id, workspace_id)]


def seen(access: Access | Denied) -> Answer:
    """Return an answer that was given, in the form of `World.answer`."""
    if isinstance(access, Denied):
        return (access.reason.name,)
    key, reached = access
    value = int(pb.Granted.FromString(key.head).key.description)
    if isinstance(reached, DenialReason):
        return reached.name, value
    assert isinstance(reached, SharedToolSet)
    tools = pb.Granted.FromString(reached.encode().field).tool_set
    kinds: tuple[Any, ...] = (tools.hats, tools.skills, tools.tools)
    full = reached.variant(Variant(None, ToolSetView.FULL), reached.servers.contents)
    texts = pb.Granted.FromString(full.encode().field).tool_set
    described: tuple[Any, ...] = (*texts.hats, *texts.skills)
    assert all(each.description == each.name for each in described), "the texts are of that state"
    assert all(reached.grant_by_name(ToolName(each.mcp_server, each.name)) for each in tools.tools)
    return "granted", value, *(tuple((each.id, each.name) for each in kind) for kind in kinds)


def _is_off(value: int) -> bool:
    """Return whether a key with this value is revoked, a member with it has left, or a tool with it is disabled."""
    return value % 4 == 3


def _member_rows(values: Values) -> Iterator[Row]:
    """Yield the members. The bits of a member's value are its teams, each of which has a hat, so tool sets show it."""
    for id_, value in values:
        if not _is_off(value):
            yield "member", id_, "", None, ()
            yield "member_team", id_, "", None, ("base", *_teams("m", value))


def _team_rows(values: Values) -> Iterator[Row]:
    """Yield the team of all members and those above, which are the bits of the value of the tree."""
    for id_, above in pairwise(("base", *_teams("t", values[0][1]), None)):
        yield "team", str(id_), "", above, ()


def _hat_rows(values: Values) -> Iterator[Row]:
    for id_, value in values:
        yield "hat", id_, str(value), "workspace", (str(value), "")
        yield "hat_skill", id_, "", None, (id_,)
    for id_ in (*_teams("m", MAX_EPOCH), *_teams("t", MAX_EPOCH)):
        yield "hat", id_, "", "teams", ("", "")
        yield "hat_team", id_, "", None, (id_,)


def _skill_rows(values: Values) -> Iterator[Row]:
    for id_, value in values:
        yield "skill", id_, str(value), None, (str(value),)
        yield "skill_tool", id_, "", None, (id_,)


def _tool_rows(values: Values) -> Iterator[Row]:
    for id_, value in values:
        if not _is_off(value):
            yield "tool", id_, str(value), id_, ()


_ROWS: Mapping[Part, Callable[[Values], Iterator[Row]]] = {
    Part.MEMBER: _member_rows,
    Part.TEAM: _team_rows,
    Part.HAT: _hat_rows,
    Part.SKILL: _skill_rows,
    Part.TOOL: _tool_rows,
}


def _expanded(touch: Touch) -> list[Touch]:
    """Return the single things that a change touches."""
    if touch.part is None and touch.key_id is None:
        return [client.touch for client in CLIENTS if client.workspace_id == touch.workspace_id]
    if touch.key_id is not None or touch.part is Part.WORKSPACE or touch.part_id is not None:
        return [touch]
    assert touch.workspace_id is not None
    return [each for each in PARTS[touch.workspace_id] if each.part is touch.part]


def _teams(prefix: str, value: int) -> tuple[str, ...]:
    """Return a team for each bit of a value."""
    return tuple(f"{prefix}{bit}" for bit in range(BITS) if value >> bit & 1)
