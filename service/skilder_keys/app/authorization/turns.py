"""The turns of the loads of a call: of its keys, and of workspaces that are not in memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.app.authorization.first_sights import FirstSights, endless

if TYPE_CHECKING:
    from collections.abc import Hashable

    from skilder_keys.app.authorization.first_sights import Patience
    from skilder_keys.app.authorization.lanes import Lane

_STRANGERS_AT_ONCE = 16


class Gates(NamedTuple):
    """What admits the loads of a process.

    Attributes:
        keys: Admits the loads of keys about which a known caller asks.
        strangers: Admits those that are to tell who calls. Anybody can send such tokens, so few are loaded at a time,
            and they take no place from the others.
        workspaces: Admits the loads of workspaces that are not in memory.
    """

    keys: FirstSights
    strangers: FirstSights
    workspaces: FirstSights

    @property
    def waiting(self) -> int:
        """The number of loads that wait for their turn."""
        return sum(each.waiting for each in self)

    @property
    def refused(self) -> int:
        """The number of tokens that were refused."""
        return sum(each.refused for each in self)


def gates(max_calls: int, connections: int) -> Gates:
    """Return the gates of a process.

    Args:
        max_calls: The most calls at the same time. Enough places stay free for calls about keys that are known.
        connections: The most database connections. Loads of workspaces use half of them.
    """
    return Gates(
        FirstSights(time.monotonic, max_calls * 5 // 8),
        FirstSights(time.monotonic, max_calls // 16, at_once=_STRANGERS_AT_ONCE),
        FirstSights(time.monotonic, max_calls // 8, at_once=max(connections // 2, 1)),
    )


class Turns:
    """Where the loads of one call wait, at one gate: under its caller, and no longer than the caller does."""

    __slots__ = ("_caller", "_gate", "_lane", "_patience")

    def __init__(
        self, gate: FirstSights, caller: Hashable = "", patience: Patience = endless, lane: Lane | None = None
    ) -> None:
        """Make it.

        Args:
            gate: The gate.
            caller: Who calls.
            patience: Returns how many seconds the caller still waits.
            lane: The lane of all of its loads, if the call has several.
        """
        self._gate = gate
        self._caller = caller
        self._patience = patience
        self._lane = lane

    def next(self, key: Hashable) -> Lane:
        """Return the lane for a load.

        Args:
            key: The key, or the workspace.

        Raises:
            BusyError: The load would wait too long.
        """
        if self._lane is not None:
            return self._gate.next_of(self._lane, self._patience)
        return self._gate.lane(key, self._caller, self._patience)
