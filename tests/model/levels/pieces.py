"""The state of the model of the two-level memory at one moment.

A part is a bit, so that a set of parts is a number. The value of a part is the epoch of the last change that touched
it. So two states of the database differ in a part exactly if its values differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY, MEMBER, HATS, TOOLS = 1, 2, 4, 8
STRUCTURE = HATS | TOOLS
WORKSPACE = MEMBER | STRUCTURE
PARTS = (MEMBER, HATS, TOOLS)
"""The parts of a workspace, in the order of `Values`. The member is the owner of the key."""

NONE = -1
"""Instead of an epoch: no key."""
HOLE = -1
"""Instead of a value: the part has to be loaded."""
SHARED = -2
"""Instead of the value of a member: that of the snapshot in memory, by mistake."""
OPEN = 1_000
"""Instead of the end of a piece: no change has touched it yet."""

Values: TypeAlias = "tuple[int, int, int]"


def as_values(values: Iterable[int]) -> Values:
    """Return the values of the three parts."""
    return cast("Values", tuple(values))


class Snapshot(NamedTuple):
    """The snapshot of the workspace in memory."""

    values: Values
    label: int
    """The epoch of the latest load that it has something of."""
    version: int
    """The version of the workspace that this load has read."""


class Load(NamedTuple):
    """A statement that has been executed, and whose result has not been used yet."""

    parts: int
    """What it loads: the key, or parts of the workspace."""
    label: int
    """The epoch of the state that it has read."""
    noted: int
    """The epoch from which on it has noted the changes that were applied meanwhile."""
    base: Snapshot | None
    """The snapshot for which it began, for a mistake."""


class HeldKey(NamedTuple):
    """A key that a call holds, though memory does not any more. Its value is that of its label."""

    label: int
    until: int


class HeldSnapshot(NamedTuple):
    """A snapshot that a call holds, though memory does not any more."""

    values: Values
    label: int
    until: int


class Call(NamedTuple):
    """The call that is watched, from its begin on. It holds whatever it could have got since."""

    epoch: int
    """The epoch that was applied when it began; for a direct call the epoch at which it has read the key."""
    settled: int
    """The last epoch of which a change may have returned before it began."""
    keys: tuple[HeldKey, ...]
    snapshots: tuple[HeldSnapshot, ...]
    direct: bool
    """Whether it began without a lease."""


class State(NamedTuple):
    """The whole state at one moment."""

    epoch: int
    """The current epoch of the database."""
    applied: int
    """The epoch that the process has applied to its memory."""
    lease: Literal["valid", "over", "row gone", "starting"]
    """Starting: memory was dropped, and the new row is not committed yet."""
    pending: int
    """The parts that the change applied last touches, but that have not been applied yet, by mistake."""
    key: int
    """The label of the key in memory, or NONE."""
    snapshot: Snapshot | None
    key_loads: tuple[Load, ...]
    part_loads: tuple[Load, ...]
    call: Call | None
