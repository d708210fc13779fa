"""The limits on client connections: their number, how long they may be idle, and the size of a call's metadata."""

from __future__ import annotations

import resource
import sys

HANDSHAKE_SECONDS = 10.0
"""A connection that is not ready for calls after this time is closed."""
IDLE_SECONDS = 60.0
"""A connection that has had no call for this time is closed. The client opens another one for its next call."""
METADATA_BYTES = 2**14
"""The maximum size of a call's metadata."""

# The maximum age of a connection varies by a tenth. The margin is for connections that are made at this moment.
_AGE_FACTOR = 1.1
_MARGIN_SECONDS = 5.0
# Files that a worker has open besides client connections: the database, the log, listening sockets, and libraries.
_OTHER_FILES = 128


def longest_handover(max_connection_age: float) -> float:
    """Return the most seconds that a handover takes: until the worker's last connection has reached its maximum age."""
    return _AGE_FACTOR * max_connection_age + _MARGIN_SECONDS


def raise_file_limit() -> None:
    """Raise the soft limit on open files to the hard limit, for this process and the processes that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if sys.platform == "linux" else soft  # elsewhere the kernel may allow less than the hard limit
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def allowed(wanted: int, pool_size: int) -> int:
    """Return how many connections clients may have: as many as wanted, or fewer if the limit on open files is lower."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - pool_size - _OTHER_FILES))
