"""Mistakes in the two levels of memory, each of which some schedule shows.

A change of the code that no schedule can show is not here: what it takes away is done a second time elsewhere, or
serves progress only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.snapshots import Snapshots
from tests.support.schedules.key_mistakes import KEY_MISTAKES
from tests.support.schedules.part_mistakes import PART_MISTAKES
from tests.support.schedules.plant import Edit

if TYPE_CHECKING:
    from tests.support.schedules.plant import Mistake

MISTAKES: dict[str, Mistake] = {**KEY_MISTAKES, **PART_MISTAKES}

PROGRESS_ONLY: dict[str, Edit] = {
    "overtaken loads of keys are joined": Edit(
        KeyCache,
        "load.touches.append((epoch, workspace_id))\n            self._leave(load)",
        "load.touches.append((epoch, workspace_id))",
    ),
    "overtaken loads of parts are joined": Edit(
        Snapshots,
        "load.touches.append((epoch, parts))\n            self._leave(load)",
        "load.touches.append((epoch, parts))",
    ),
    "keys are loaded into what a lost row has ended": Edit(
        KeyCache, "self._scopes = WeakValueDictionary()\n        release", "release"
    ),
}
"""What each change of the code says that makes calls take longer, and no answer wrong."""
