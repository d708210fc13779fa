"""Steps that change one key: it is issued, suspended, resumed, updated or revoked."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from tests.support.life.calls import Calls, never
from tests.support.life.choices import ANY, LIMITS, PATHS, SET_AT_ISSUE, message_fields
from tests.support.life.model import ModelKey
from tests.support.life.policies import lifetime_at_issue, policy_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

DAY = timedelta(days=1)
LIFETIMES = (None, None, DAY, 3 * DAY, timedelta(seconds=1), timedelta(seconds=1.5))


class KeySteps(Calls):
    """Steps about one key. What a step is not told is left to chance."""

    async def issue(self, kind: str = "", previous: int | None = None, lifetime: Any = ANY, **values: Any) -> None:
        """Issue a key of any type, with or without each limit; `again`: for whom the last one was."""
        last = self.choose.last
        workspace_id = self.choose.living_id() if kind else self.choose.workspace_id()
        if kind == "again" and last is not None:
            workspace_id = last.workspace_id
        workspace = self.model.workspaces.get(workspace_id)
        owner = self.choose.owner(workspace, kind)
        is_runtime = owner["type"] == key_pb2.KEY_TYPE_RUNTIME
        names = ["description", "labels", "networks"] if is_runtime else SET_AT_ISSUE
        new = self.choose.new(names, workspace, values)
        stated = self.choose.source.choice(LIFETIMES) if lifetime is ANY else lifetime
        if previous is None or not is_runtime:
            previous = self.choose.source.choice([0, 1, 2]) if is_runtime else 0
        wanted = owner | new | {"workspace_id": workspace_id, "lifetime": stated}
        runtime_id = owner.get("runtime_id", "")
        is_revoking = previous == pb.PREVIOUS_KEYS_REVOKE
        if is_revoking:
            # So that all of them are revoked, or none, whenever the service reads them.
            for key in list(self.model.of_runtime(workspace_id, runtime_id, await self.now())):
                await self.wait_until(key.expires_at or key.created_at)
        fields: dict[str, Any] = owner | message_fields(new) | {"previous_keys": previous, "lifetime": stated}
        issued = await self.call(
            lambda now: self.model.refuse_issue(wanted, now, is_said=bool(previous)),
            self.choose.client().issue(workspace_id=workspace_id, **fields),
        )
        if issued is None:
            return
        if is_revoking:
            for key in list(self.model.of_runtime(workspace_id, runtime_id, self.before)):
                self.end(self.model.family(key))
        lives = lifetime_at_issue(policy_of(self.model, workspace_id), owner["type"], stated)
        self.add(
            issued,
            ModelKey(
                id=issued.key.id,
                workspace_id=workspace_id,
                created_at=issued.key.created_at.ToDatetime(UTC),
                expires_at=self.expiry(issued.key, lives),
                family_id=issued.key.id,
                **owner,
                **new,
            ),
        )

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
        if await self.call(lambda now: self.model.refuse_suspension(key, now), changed):
            key.suspended = suspended

    async def update(self, **values: Any) -> None:
        """Change or lift some of what can be changed about a key. An expiry is said as the time that is left."""
        key = self.choose.key()
        mask = sorted(values) or self._mask(key)
        new = self.choose.new(mask, self.model.workspaces.get(key.workspace_id), values)
        if "expires_at" in mask:
            lengths = [None, timedelta(seconds=0.5), timedelta(seconds=1), DAY, 9 * DAY]
            left = values["expires_at"] if "expires_at" in values else self.choose.source.choice(lengths)
            new["expires_at"] = None if left is None else await self.now() + left
        request = pb.UpdateKeyRequest(
            key=key_pb2.Key(id=key.id, **message_fields(new)),
            update_mask=FieldMask(paths=[PATHS.get(name, name) for name in mask]),
            unlimited=[LIMITS[name] for name in mask if name in LIMITS and new[name] in {None, ()}],
        )
        changed = self.choose.client().keys.UpdateKey(request)
        if await self.call(lambda now: self.model.refuse_update(key, new, now), changed):
            if new.get("expires_at", key.expires_at) != key.expires_at:
                key.planned_end = new["expires_at"]
            vars(key).update(new)

    def _mask(self, key: ModelKey) -> list[str]:
        names = ["description", "labels", "networks", "expires_at", "expires_at"]
        if key.type != key_pb2.KEY_TYPE_RUNTIME:
            names.append("hats")
        return sorted(set(self.choose.source.sample(names, self.choose.source.choice([1, 1, 2, 4]))))

    async def revoke(self) -> None:
        """Revoke a key, by its id or its token."""
        key = self.choose.key()
        target = {"key_id": key.id} if self.choose.source.random() < 0.7 else {"token": self.tokens[key.id]}
        await self.call(never, self.choose.client().revoke(**target))
        self.end([key])

    async def pass_time(self) -> None:
        """Wait until the next key expires, if one does soon."""
        now = await self.now()
        ends: list[datetime] = [
            key.expires_at for key in self.model.keys.values() if key.is_live(now) and key.expires_at is not None
        ]
        await self.wait_until(min(ends, default=now))
