"""CPU time of processes, to the nanosecond."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_WHOLE_PROCESS = 2


def cpu_seconds(parent: psutil.Process | None) -> float:
    """Answers the user and system time so far of a process, of all below it, and of those below it that have ended."""
    if parent is None:
        return 0.0
    ended = parent.cpu_times()
    total = float(ended.children_user + ended.children_system)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(OSError):  # it has ended just now
            total += time.clock_gettime(_clock(process.pid))
    return total


def _clock(pid: int) -> int:
    """Answers what clock_getcpuclockid(3) answers on Linux; the files of /proc count in hundredths of a second."""
    return ~pid << 3 | _WHOLE_PROCESS
