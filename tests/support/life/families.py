"""Steps that concern several keys: a key is rotated, and families or all that match a filter are revoked."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from tests.support.life.calls import Calls, never
from tests.support.life.choices import ANY, FILTERS
from tests.support.life.model import ModelKey
from tests.support.life.policies import lifetime_of_successor, planned_lifetime, policy_of

if TYPE_CHECKING:
    from skilder.keys.v1.key_service_pb2 import RotateKeyResponse

DAY = timedelta(days=1)
GRACES = (None, timedelta(), timedelta(seconds=0.4), timedelta(seconds=1), 2 * DAY)


class FamilySteps(Calls):
    """Steps about the generations of a key, and about many keys. What a step is not told is left to chance."""

    async def rotate(self, grace: Any = ANY, lifetime: Any = ANY) -> None:
        """Rotate a key, which then has its grace, and add its successor, which has what the key has."""
        key = self.choose.key(self.choose.is_active)
        fields = self._rotation(grace, lifetime, [None, None, timedelta(seconds=1.5), 3 * DAY])
        stated = fields.get("lifetime")
        rotated = await self.call(
            lambda now: self.model.refuse_rotation(key, stated, now), self.choose.client().rotate(key.id, **fields)
        )
        if rotated is not None:
            self._add_successor(rotated, key, fields)

    async def rotate_own(self, grace: Any = ANY, lifetime: Any = ANY) -> None:
        """Let the bearer of a key rotate it, which only an active key of a runtime instance may do."""
        key = self.choose.key(lambda key: key.type == key_pb2.KEY_TYPE_RUNTIME and self.choose.is_active(key))
        planned = planned_lifetime(key) or DAY
        fields = self._rotation(grace, lifetime, [None, None, planned, planned + timedelta(seconds=1)])
        stated = fields.get("lifetime")
        if key.is_live(await self.now()):
            # So that the service finds it expired in both of its looks, or in none.
            await self.wait_until(key.expires_at or key.created_at)
        bearer = await self.choose.source.choice(self.choose.services).client(self.tokens[key.id])
        rotated = await self.call(
            lambda now: self.model.refuse_own_rotation(key, stated, now), bearer.rotate_own(**fields)
        )
        if rotated is not None:
            self._add_successor(rotated, key, fields)

    def _rotation(self, grace: Any, lifetime: Any, lifetimes: list[timedelta | None]) -> dict[str, timedelta]:
        chosen = {
            "grace": self.choose.source.choice(GRACES) if grace is ANY else grace,
            "lifetime": self.choose.source.choice(lifetimes) if lifetime is ANY else lifetime,
        }
        return {name: length for name, length in chosen.items() if length is not None}

    def _add_successor(self, rotated: RotateKeyResponse, key: ModelKey, fields: dict[str, timedelta]) -> None:
        lives = lifetime_of_successor(policy_of(self.model, key.workspace_id), key, fields.get("lifetime"))
        successor = ModelKey(
            **vars(key)
            | {
                "id": rotated.key.id,
                "created_at": rotated.key.created_at.ToDatetime(UTC),
                "expires_at": self.expiry(rotated.key, lives),
                "predecessor_id": key.id,
            }
        )
        ends_at = rotated.predecessor.expires_at.ToDatetime(UTC)
        if ends_at != key.expires_at:
            grace = fields.get("grace", DAY)
            assert self.before + grace <= ends_at <= self.after + grace
            assert key.expires_at is None or ends_at < key.expires_at
            key.expires_at = ends_at
        self.add(rotated, successor)

    async def revoke_family(self) -> None:
        """Revoke all generations of a key, most often of one with several."""
        key = self.choose.key(lambda key: bool(key.predecessor_id))
        request = pb.RevokeKeyRequest(key_id=key.id, scope=pb.REVOKE_SCOPE_FAMILY)
        response = await self.call(never, self.choose.client().keys.RevokeKey(request))
        family = list(self.model.family(key))
        assert set(response.other_key_ids) == {each.id for each in family} - {key.id}
        self.end(family)

    async def revoke_keys(self, **fields: Any) -> None:
        """Revoke the keys of a workspace that match a filter, or only count them."""
        workspace_id = self.choose.workspace_id()
        key = self.choose.key(lambda key: key.workspace_id == workspace_id)
        if fields:
            workspace_id = key.workspace_id
        wanted = pb.KeyFilter(**fields or self.choose.source.choice([*FILTERS, {"family_id": key.family_id}]))
        dry_run = not fields and self.choose.source.random() < 0.2
        request = pb.RevokeKeysRequest(workspace_id=workspace_id, filter=wanted, max_keys=100, dry_run=dry_run)
        response = await self.call(never, self.choose.client().keys.RevokeKeys(request))
        matching = [self.model.matching(workspace_id, wanted, now) for now in (self.before, self.after)]
        assert matching[0] & matching[1] <= set(response.key_ids) <= matching[0] | matching[1]
        assert response.key_count == len(response.key_ids)
        if not dry_run:
            self.end(self.model.keys[id_] for id_ in response.key_ids)
