"""A restart of all workers while very many keys are in use: how long calls take longer, and what callers get."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.openloop import BUSY, GRANTED

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from bench.around import LoadOf

_BEFORE = 3.0
_MOST = 35.0
_NORMAL = 3.0
"""How many times the p99 of before counts as normal again."""
_STEP = 1.0
_STAYS = 3


@dataclass(frozen=True)
class Restart:
    """What a restart cost.

    Attributes:
        seconds: Until the p99 of a second was normal, and stayed so; infinite if that was not seen.
        outcomes: What the calls got that were due after the old workers had ended.
        cut_off: How many calls before that were neither granted nor got BUSY: they were under way in an old worker.
    """

    seconds: float
    outcomes: Counter[str]
    cut_off: int

    @property
    def others(self) -> int:
        """How many calls got neither GRANTED nor BUSY."""
        return _others(self.outcomes)


def restart(load: LoadOf, end_workers: Callable[[], None], most: float = _MOST) -> Restart:
    """End all workers under load, and look at so many seconds more; those that replace them have nothing in memory."""
    with load(_BEFORE + most) as running:
        at = running.sleep_until(_BEFORE)
        end_workers()
        ended = running.now()
    timeline = running.timeline
    normal = _NORMAL * timeline.percent(99, 1.0, at - 0.1)
    calm = 0
    seconds = math.inf
    for number in range(int(most / _STEP)):
        begin = at + number * _STEP
        took = timeline.percent(99, begin, begin + _STEP)
        calm = calm + 1 if took <= normal and timeline.outcomes(begin, begin + _STEP).keys() == {GRANTED} else 0
        if calm == _STAYS:
            seconds = (number + 1 - _STAYS) * _STEP
            break
    return Restart(seconds, timeline.outcomes(ended), _others(timeline.outcomes(at, ended)))


def _others(outcomes: Counter[str]) -> int:
    return outcomes.total() - outcomes[GRANTED] - outcomes[BUSY]
