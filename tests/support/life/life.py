"""The life of keys, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.life.families import FamilySteps
from tests.support.life.keys import KeySteps
from tests.support.life.workspaces import WorkspaceSteps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.support.life.calls import Sql
    from tests.support.life.model import ModelKey
    from tests.support.life.stories import Step
    from tests.support.service import Service

MOST_KEYS = 9
"""How many keys that are not revoked there are at most, about."""
_OTHERS = 2
"""How many keys are looked at in each step though it should not have changed them."""


class Life(KeySteps, FamilySteps, WorkspaceSteps):
    """Changes of keys and workspaces, made through the service and in the model.

    Each step has its own source of chance, so that a step that depends on the time does not change the later ones.
    """

    def __init__(
        self, services: Sequence[Service], sql: Sql, seed: int, replaced: Callable[[], Awaitable[Service]]
    ) -> None:
        """Make a life.

        Args:
            services: Two processes of the same database.
            sql: A connection to it.
            seed: Decides what happens.
            replaced: Ends the second process, and returns another one instead.
        """
        super().__init__(services, sql, seed)
        self._replaced = replaced
        self._seen: dict[str, object] = {}

    async def make(self, number: int, step: Step) -> None:
        """Make one change, or let time pass."""
        self.choose.source = self.source(number)
        self.choose.of, self.choose.in_family = step.of, 1.0 if step.in_story else 0.4
        await getattr(self, step.name)(**step.said)

    async def restart(self) -> None:
        """Replace the second process. Keys that are in use are loaded ahead into its memory, if they are known."""
        self.choose.services[1] = await self._replaced()

    async def forget(self) -> None:
        """Have every process drop its memory."""
        await self.sql.execute("UPDATE fence SET tag = tag + 1")

    async def thin_out(self) -> None:
        """Revoke a family, if there are many keys."""
        if sum(not key.revoked for key in self.model.keys.values()) > MOST_KEYS:
            self.choose.in_family, self.choose.last = 0.0, None
            await self.revoke_family()

    async def to_look_at(self) -> list[ModelKey]:
        """Return the keys that the last step has changed, their families, and a few others."""
        now = await self.now()
        found: list[ModelKey] = []
        others: list[ModelKey] = []
        families = {self.choose.last.family_id} if self.choose.last else set()
        for key in self.model.keys.values():
            facts = (self.model.state(key, now), key.networks, self.model.reached(key), key.expires_at)
            is_changed = self._seen.get(key.id) != facts
            self._seen[key.id] = facts
            (found if is_changed or key.family_id in families else others).append(key)
        return found + self.choose.source.sample(others, min(_OTHERS, len(others)))
