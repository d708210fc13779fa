"""The process that ends workers which outlive their parent: `python -I -S watchdog.py`.

A worker ends by itself when its parent is gone; one that is frozen cannot. So this process, which does nothing else and
stands alone, reads the numbers of the workers from its standard input, a line each, as they are started. The input ends
with the parent, however that ends; then the workers have a moment for their calls, and those that stay are killed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

_PATIENCE_SECONDS = 3.0


def main() -> None:
    """Watch until the parent is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    # Descriptors and not numbers, which are used again.
    workers: list[int] = []
    for said in sys.stdin:
        workers = _running(workers, 0.0)
        with suppress(ProcessLookupError):
            workers.append(os.pidfd_open(int(said)))
    end = time.monotonic() + _PATIENCE_SECONDS
    while workers and (left := end - time.monotonic()) > 0:
        workers = _running(workers, left)
    for worker in workers:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, signal.SIGKILL)


def _running(workers: list[int], seconds: float) -> list[int]:
    """Return the workers that run, once one has ended or after so many seconds."""
    ended, _, _ = select.select(workers, [], [], seconds)
    for worker in ended:
        os.close(worker)
    return [each for each in workers if each not in ended]


if __name__ == "__main__":
    main()
