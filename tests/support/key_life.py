"""Random changes of keys and workspaces, made through the service and in the model of keys."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from tests.support.calls import delete_workspace
from tests.support.key_choices import (
    FILTERS,
    LIMITS,
    PATHS,
    SET_AT_ISSUE,
    WEIGHTS,
    WITH_MANY_KEYS,
    Choices,
    message_fields,
)
from tests.support.key_model import KeyModel, ModelKey
from tests.support.random_workspaces import random_workspace
from tests.support.service import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import asyncpg

    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.service import Service

    Sql = asyncpg.Connection[Any]

MOST_KEYS = 9
"""How many keys that are not revoked there are at most, about."""
SOON = timedelta(seconds=2)
"""Keys that expire within this time are waited for."""
DAY = timedelta(days=1)
RUNTIME_LIFETIME = 30 * DAY


class Life:
    """A sequence of random changes of keys and workspaces, made through the service and in the model.

    Each step has its own source of chance, so that a step that depends on the time does not change the later ones.
    """

    def __init__(self, services: Sequence[Service], sql: Sql, seed: int) -> None:
        self.sql = sql
        self.seed = seed
        self.model = KeyModel()
        self.choose = Choices(services, self.model, self._source("start"))
        self.tokens: dict[str, str] = {}
        self.before = self.after = datetime.min.replace(tzinfo=UTC)

    async def start(self) -> None:
        """Make two workspaces, with some keys."""
        for id_ in ("one", "two"):
            await self._apply(random_workspace(self.choose.source, id_))
        for _ in range(4):
            await self.issue()

    async def step(self, number: int) -> str:
        """Make one change, or let time pass, and return what it was."""
        self.choose.source = self._source(number)
        weights = WEIGHTS
        if sum(not key.revoked for key in self.model.keys.values()) >= MOST_KEYS:
            weights = WEIGHTS | WITH_MANY_KEYS
        (name,) = self.choose.source.choices(list(weights), list(weights.values()))
        await getattr(self, name)()
        return name

    async def issue(self) -> None:
        """Issue a key of any type, with or without each limit."""
        workspace_id = self.choose.workspace_id()
        workspace = self.model.workspaces.get(workspace_id)
        owner = self.choose.owner(workspace)
        is_runtime = owner["type"] == key_pb2.KEY_TYPE_RUNTIME
        new = self.choose.new(["description", "labels", "networks"] if is_runtime else SET_AT_ISSUE, workspace)
        lifetime = self.choose.source.choice([None, None, DAY, timedelta(seconds=1), timedelta(seconds=1.5)])
        previous = self.choose.source.choice([0, 1, 2]) if is_runtime else 0
        runtime_id = owner.get("runtime_id", "")

        def refuse(now: datetime) -> str:
            return self.model.refuse_issue(workspace_id, runtime_id, now, is_said=bool(previous))

        if previous == pb.PREVIOUS_KEYS_REVOKE:
            # So that all of them are revoked, or none, whenever the service reads them.
            for key in list(self.model.of_runtime(workspace_id, runtime_id, await self.now())):
                await self._pass(key.expires_at or key.created_at)
        fields: dict[str, Any] = owner | message_fields(new) | {"previous_keys": previous, "lifetime": lifetime}
        issued = await self._call(refuse, self.choose.client().issue(workspace_id=workspace_id, **fields))
        if issued is None:
            return
        if previous == pb.PREVIOUS_KEYS_REVOKE:
            for key in list(self.model.of_runtime(workspace_id, runtime_id, self.before)):
                self._end(self.model.family(key))
        self._add(
            issued,
            ModelKey(
                id=issued.key.id,
                workspace_id=workspace_id,
                created_at=issued.key.created_at.ToDatetime(UTC),
                expires_at=self._lived(issued.key, RUNTIME_LIFETIME if is_runtime and lifetime is None else lifetime),
                family_id=issued.key.id,
                **owner,
                **new,
            ),
        )

    async def rotate(self) -> None:
        """Rotate a key, which then has its grace, and add its successor, which has what the key has."""
        key = self.choose.key(self.choose.is_active)
        grace = self.choose.source.choice([None, timedelta(), timedelta(seconds=0.4), timedelta(seconds=1), 2 * DAY])
        lifetime = self.choose.source.choice([None, None, timedelta(seconds=1.5), 3 * DAY])
        fields: dict[str, Any] = {} if grace is None else {"grace": grace}
        if lifetime is not None:
            fields["lifetime"] = lifetime
        rotated = await self._call(
            lambda now: self.model.refuse_rotation(key, now), self.choose.client().rotate(key.id, **fields)
        )
        if rotated is None:
            return
        if lifetime is None:
            lifetime = RUNTIME_LIFETIME if key.type == key_pb2.KEY_TYPE_RUNTIME else None
            if key.planned_end is not None:
                lifetime = key.planned_end - key.created_at
        successor = ModelKey(
            **vars(key)
            | {
                "id": rotated.key.id,
                "created_at": rotated.key.created_at.ToDatetime(UTC),
                "expires_at": self._lived(rotated.key, lifetime),
                "predecessor_id": key.id,
            }
        )
        ends_at = rotated.predecessor.expires_at.ToDatetime(UTC)
        if ends_at != key.expires_at:
            length = DAY if grace is None else grace
            assert self.before + length <= ends_at <= self.after + length
            assert key.expires_at is None or ends_at < key.expires_at
            key.expires_at = ends_at
        self._add(rotated, successor)

    async def suspend(self) -> None:
        """Suspend a key, most often one that is active."""
        await self._suspend("SuspendKey", self.choose.is_active, suspended=True)

    async def resume(self) -> None:
        """Resume a key, most often one that is suspended."""
        await self._suspend("ResumeKey", lambda key: key.suspended, suspended=False)

    async def _suspend(self, method: str, wanted: Callable[[ModelKey], bool], *, suspended: bool) -> None:
        key = self.choose.key(wanted)
        request: Any = getattr(pb, f"{method}Request")(key_id=key.id)
        changed = getattr(self.choose.client().keys, method)(request)
        if await self._call(lambda now: self.model.refuse_suspension(key, now), changed):
            key.suspended = suspended

    async def update(self) -> None:
        """Change or lift some of what can be changed about a key."""
        key = self.choose.key()
        names = ["description", "labels", "networks", "expires_at", "expires_at"]
        if key.type != key_pb2.KEY_TYPE_RUNTIME:
            names.append("hats")
        mask = sorted(set(self.choose.source.sample(names, self.choose.source.choice([1, 1, 2, 4]))))
        new = self.choose.new(mask, self.model.workspaces.get(key.workspace_id))
        if "expires_at" in mask:
            after = self.choose.source.choice([None, timedelta(seconds=0.5), timedelta(seconds=1), DAY, 9 * DAY])
            new["expires_at"] = None if after is None else await self.now() + after
        request = pb.UpdateKeyRequest(
            key=key_pb2.Key(id=key.id, **message_fields(new)),
            update_mask=FieldMask(paths=[PATHS.get(name, name) for name in mask]),
            unlimited=[LIMITS[name] for name in mask if name in LIMITS and new[name] in {None, ()}],
        )
        changed = self.choose.client().keys.UpdateKey(request)
        if await self._call(lambda now: self.model.refuse_update(key, new.get("expires_at"), now), changed):
            if new.get("expires_at", key.expires_at) != key.expires_at:
                key.planned_end = new["expires_at"]
            vars(key).update(new)

    async def revoke(self) -> None:
        """Revoke a key, by its id or its token."""
        key = self.choose.key()
        target = {"key_id": key.id} if self.choose.source.random() < 0.7 else {"token": self.tokens[key.id]}
        await self._call(_never, self.choose.client().revoke(**target))
        self._end([key])

    async def revoke_family(self) -> None:
        """Revoke all generations of a key, most often of one with several."""
        key = self.choose.key(lambda key: bool(key.predecessor_id))
        request = pb.RevokeKeyRequest(key_id=key.id, scope=pb.REVOKE_SCOPE_FAMILY)
        response = await self._call(_never, self.choose.client().keys.RevokeKey(request))
        family = list(self.model.family(key))
        assert set(response.other_key_ids) == {each.id for each in family} - {key.id}
        self._end(family)

    async def revoke_keys(self) -> None:
        """Revoke the keys of a workspace that match a filter, or only count them."""
        workspace_id = self.choose.workspace_id()
        key = self.choose.key(lambda key: key.workspace_id == workspace_id)
        wanted = pb.KeyFilter(**self.choose.source.choice([*FILTERS, {"family_id": key.family_id}]))
        dry_run = self.choose.source.random() < 0.2
        request = pb.RevokeKeysRequest(workspace_id=workspace_id, filter=wanted, max_keys=100, dry_run=dry_run)
        response = await self._call(_never, self.choose.client().keys.RevokeKeys(request))
        matching = [self.model.matching(workspace_id, wanted, now) for now in (self.before, self.after)]
        assert matching[0] & matching[1] <= set(response.key_ids) <= matching[0] | matching[1]
        assert response.key_count == len(response.key_ids)
        if not dry_run:
            self._end(self.model.keys[id_] for id_ in response.key_ids)

    async def apply(self) -> None:
        """Replace all of a workspace, without some of the members."""
        workspace = random_workspace(self.choose.source, self.choose.living_id())
        for _ in range(self.choose.source.randint(0, 2)):
            workspace.members.remove(self.choose.source.choice(workspace.members))
        await self._apply(workspace)

    async def change(self) -> None:
        """Change one part of a workspace, or remove it."""
        workspace = random_workspace(self.choose.source, "")
        workspace.CopyFrom(self.model.workspaces[self.choose.living_id()])
        member = self.choose.source.choice(workspace.members)
        hat = self.choose.source.choice(workspace.hats) if workspace.hats else None
        tool = self.choose.source.choice(workspace.tools)
        what = self.choose.source.choice(["tool", "teams", "member", "hat", "skills"])
        if what == "teams":
            member.team_ids[:] = self.choose.source.sample([team.id for team in workspace.teams], 1)
        elif what == "member" and len(workspace.members) > 1:
            workspace.members.remove(member)
        elif what == "hat" and hat:
            workspace.hats.remove(hat)
        elif what == "skills" and hat:
            hat.skill_ids[:] = hat.skill_ids[1:] or [skill.id for skill in workspace.skills]
        else:
            tool.disabled = not tool.disabled
        await self._apply(workspace)

    async def delete(self) -> None:
        """Delete a workspace, and make another."""
        workspace_id = self.choose.living_id()
        await self._call(_never, delete_workspace(self.choose.client(), workspace_id))
        del self.model.workspaces[workspace_id]
        await self._apply(random_workspace(self.choose.source, f"{workspace_id}-"))

    async def pass_time(self) -> None:
        """Wait until the next key expires, if one does soon."""
        now = await self.now()
        ends = [key.expires_at for key in self.model.keys.values() if key.is_live(now) and key.expires_at is not None]
        await self._pass(min(ends, default=now))

    async def _pass(self, moment: datetime) -> None:
        """Wait until a time is past, if it comes soon."""
        now = await self.now()
        while now <= moment <= now + SOON:
            await self.sql.execute("SELECT pg_sleep(extract(epoch FROM $1 - clock_timestamp()) + 0.001)", moment)
            now = await self.now()

    async def _call(self, refuse: Callable[[datetime], str], call: Awaitable[Any]) -> Any:
        """Return the response of a call, or None if it is refused, which the model must expect."""
        self.before = self.choose.now = await self.now()
        refused, response = "", None
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            refused = Refusal.of(error).reason
        self.after = await self.now()
        assert refused in {refuse(self.before), refuse(self.after)}
        return response

    async def _apply(self, workspace: Workspace) -> None:
        await self._call(_never, self.choose.client().apply(workspace, max_removals=100))
        self.model.workspaces[workspace.id] = workspace

    def _add(self, response: Any, key: ModelKey) -> None:
        key.planned_end = key.expires_at
        self.tokens[key.id] = response.token
        self.model.keys[key.id] = key
        assert (response.key.family_id, response.key.predecessor_id) == (key.family_id, key.predecessor_id)

    def _lived(self, key: key_pb2.Key, lifetime: timedelta | None) -> datetime | None:
        """Return when a key that was made just now expires, which must be after this lifetime; None for never."""
        expires_at = key.expires_at.ToDatetime(UTC) if key.HasField("expires_at") else None
        assert (expires_at is None) == (lifetime is None)
        if expires_at is not None and lifetime is not None:
            assert self.before + lifetime <= expires_at <= self.after + lifetime, (key.id, lifetime)
        return expires_at

    def _end(self, keys: Any) -> None:
        for key in keys:
            key.revoked = True

    def _source(self, step: int | str) -> random.Random:
        return random.Random(f"{self.seed} {step}")  # noqa: S311 - chance, not a secret

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        moment: datetime = await self.sql.fetchval("SELECT clock_timestamp()")
        return moment


def _never(_: datetime) -> str:
    """Return that nothing refuses a call."""
    return ""
