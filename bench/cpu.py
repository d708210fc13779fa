"""CPU time of processes, to the nanosecond, and of their threads."""

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
        name: What Linux calls it.
        seconds: Its CPU time.
        user: Its time outside the kernel, in ticks: coarse, good for a proportion.
        kernel: Its time in the kernel, in ticks.
    """

    name: str
    seconds: float
    user: int
    kernel: int

    def since(self, before: ThreadTime | None) -> ThreadTime:
        """Return what it has used since before, or in all where there was nothing before."""
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
    """Return the user and system time so far of a process, of all below it, and of those below it that have ended."""
    if parent is None:
        return 0.0
    ended = parent.cpu_times()
    total = float(ended.children_user + ended.children_system)
    for process in (parent, *parent.children(recursive=True)):
        with suppress(OSError):  # it has ended just now
            total += time.clock_gettime(_clock(process.pid))
    return total


def thread_times(pid: int) -> dict[int, ThreadTime]:
    """Return the threads of a process by their numbers, in order of beginning: the process's own is first."""
    found = []
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended just now
            name, _, rest = (folder / "stat").read_text("utf-8").partition("(")[2].rpartition(") ")
            fields = rest.split()
            nanoseconds = int((folder / "schedstat").read_text("ascii").split()[0])
            time_used = ThreadTime(name, nanoseconds / 1e9, int(fields[11]), int(fields[12]))
            # Numbers begin anew when they have run out, so they do not tell the order.
            began = int(fields[19])
            found.append((began, int(folder.name), time_used))
    return {number: time_used for _, number, time_used in sorted(found, key=itemgetter(0, 1))}


def _clock(pid: int) -> int:
    """Return what clock_getcpuclockid(3) answers on Linux; the files of /proc count in hundredths of a second."""
    return ~pid << 3 | _WHOLE_PROCESS
