"""A load of a key that is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.batching import Shared

if TYPE_CHECKING:
    import asyncio

    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.domain.ids import WorkspaceId


class KeyLoad:
    """A key that is being loaded, for all calls that need it meanwhile.

    Attributes:
        id: The key's id as tokens spell it.
        touches: The changes that touched it since the load began: their epochs, and the workspace if a change touched
            all keys of a workspace, which may be that of the key.
        drops: How often memory had been dropped when it was made.
        turn: The future of its turn, if it had to wait for it.
        result: For the calls.
    """

    __slots__ = ("digest", "drops", "id", "result", "touches", "turn")

    def __init__(self, id_: str, digest: bytes, drops: int) -> None:
        self.id = id_
        self.digest = digest
        self.touches: list[tuple[int, WorkspaceId | None]] = []
        self.drops = drops
        self.turn: asyncio.Future[None] | None = None
        self.result: Shared[KnownKey | None] = Shared()
