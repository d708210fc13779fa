"""A call and what the model expects of it: what all steps of the life of keys have in common."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc

from tests.support.life.choices import Choices
from tests.support.life.model import KeyModel, ModelKey
from tests.support.random_workspaces import random_workspace
from tests.support.service import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    import asyncpg

    from skilder.keys.v1 import key_pb2
    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.service import Service

    Sql = asyncpg.Connection[Any]

SOON = timedelta(seconds=2)
"""Keys that expire within this time are waited for."""


class Calls:
    """The service, the model, and the calls that change both.

    Attributes:
        choose: Makes choices.
        tokens: The tokens of the keys, by their ids.
        before, after: When the last call began and ended, by the database's clock.
        refused: Why it was refused; empty if it was not.
    """

    def __init__(self, services: Sequence[Service], sql: Sql, seed: int) -> None:
        self.sql = sql
        self.seed = seed
        self.model = KeyModel()
        self.choose = Choices(list(services), self.model, self.source("start"))
        self.tokens: dict[str, str] = {}
        self.before = self.after = datetime.min.replace(tzinfo=UTC)
        self.refused = ""

    async def start(self) -> None:
        """Make two workspaces."""
        for id_ in ("one", "two"):
            await self.apply_all(random_workspace(self.choose.source, id_))

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        moment: datetime = await self.sql.fetchval("SELECT clock_timestamp()")
        return moment

    def source(self, step: int | str) -> random.Random:
        """Return the source of chance of a step."""
        return random.Random(f"{self.seed} {step}")  # noqa: S311 - chance, not a secret

    async def call(self, refuse: Callable[[datetime], str], call: Awaitable[Any]) -> Any:
        """Return the response of a call, or None if it is refused, which the model must expect."""
        self.before = self.choose.now = await self.now()
        refused, response = "", None
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            refused = Refusal.of(error).reason
        self.after = await self.now()
        expected = {refuse(self.before), refuse(self.after)}
        assert refused in expected, f"{refused!r} instead of {expected}"
        self.refused = refused
        return response

    async def wait_until(self, moment: datetime) -> None:
        """Wait until a time is past, if it comes soon."""
        now = await self.now()
        while now <= moment <= now + SOON:
            await self.sql.execute("SELECT pg_sleep(extract(epoch FROM $1 - clock_timestamp()) + 0.001)", moment)
            now = await self.now()

    async def apply_all(self, workspace: Workspace) -> None:
        """Replace all of a workspace. A key policy that is not set stays as it is."""
        await self.call(never, self.choose.client().apply(workspace, max_removals=100))
        if workspace.id in self.model.workspaces and not workspace.HasField("key_policy"):
            workspace.key_policy.CopyFrom(self.model.workspaces[workspace.id].key_policy)
        self.model.workspaces[workspace.id] = workspace

    def add(self, response: Any, key: ModelKey) -> None:
        """Add a key that was made just now to the model."""
        key.planned_end = key.expires_at
        self.tokens[key.id] = response.token
        self.model.keys[key.id] = self.choose.last = key
        assert (response.key.family_id, response.key.predecessor_id) == (key.family_id, key.predecessor_id)

    def expiry(self, key: key_pb2.Key, lifetime: timedelta | None) -> datetime | None:
        """Return when a key that was made just now expires, which must be after this lifetime; None for never."""
        expires_at = key.expires_at.ToDatetime(UTC) if key.HasField("expires_at") else None
        assert (expires_at is None) == (lifetime is None), (key.id, expires_at, lifetime)
        if expires_at is not None and lifetime is not None:
            assert self.before + lifetime <= expires_at <= self.after + lifetime, (key.id, lifetime)
        return expires_at

    def end(self, keys: Iterable[ModelKey]) -> None:
        """Revoke keys in the model."""
        for key in keys:
            key.revoked = True


def never(_: datetime) -> str:
    """Return that nothing refuses a call."""
    return ""
