"""CPU time of processes and of their threads, to the nanosecond."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_WHOLE_PROCESS = 2


@dataclass(frozen=True)
class ThreadTime:
    """What a thread has used so far.

    Attributes:
        name: Its name in Linux.
        seconds: Its CPU time.
        user: Its time outside the kernel, in ticks, which are coarse but give the proportion.
        kernel: Its time in the kernel, in ticks.
    """

    name: str
    seconds: float
    user: int
    kernel: int

    def since(self, before: ThreadTime | None) -> ThreadTime:
        """Return the difference to an earlier value, or the whole value if there is none."""
        if before is None:
            return self
        return ThreadTime(
            self.name, self.seconds - before.seconds, self.user - before.user, self.kernel - before.kernel
        )

    @property
    def kernel_seconds(self) -> float:
        """Its CPU time in the kernel."""
        return self.seconds * self.kernel / max(1, self.user + self.kernel)


def cpu_seconds(parent: psutil.Process | None) -> float:
    """Return the user and system time of a process and all its descendants, including those that have ended."""
    if parent is None:
        return 0.0
    ended = parent.cpu_times()
    total = float(ended.children_user + ended.children_system)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(OSError):  # the process or thread has just ended
            total += process_seconds(process.pid)
    return total


def process_seconds(pid: int) -> float:
    """Return the user and system time of a process.

    Raises:
        OSError: It has ended.
    """
    return time.clock_gettime(_clock(pid))


def thread_times(pid: int) -> dict[int, ThreadTime]:
    """Return the threads of a process by their ids, in order of creation: the main thread first."""
    found = []
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the process or thread has just ended
            name, _, rest = (folder / "stat").read_text("utf-8").partition("(")[2].rpartition(") ")
            fields = rest.split()
            nanoseconds = int((folder / "schedstat").read_text("ascii").split()[0])
            time_used = ThreadTime(name, nanoseconds / 1e9, int(fields[11]), int(fields[12]))
            # Thread ids wrap around, so they do not show the order of creation.
            began = int(fields[19])
            found.append((began, int(folder.name), time_used))
    return {number: time_used for _, number, time_used in sorted(found, key=itemgetter(0, 1))}


def _clock(pid: int) -> int:
    """Return the clock id, as clock_getcpuclockid(3) does on Linux: /proc counts only hundredths of a second."""
    return ~pid << 3 | _WHOLE_PROCESS
