"""What bounds the connections of clients: how many, how long they may say nothing, how much metadata they send."""

from __future__ import annotations

import resource
import sys

HANDSHAKE_SECONDS = 10.0
"""A connection is closed that is not ready for calls by then."""
IDLE_SECONDS = 60.0
"""A connection is closed that has had no call for so long. A client opens another with its next call."""
METADATA_BYTES = 2**14
"""The most metadata of a call."""

# The age of a connection varies by a tenth; the rest is for connections that are made just now.
_AGE_FACTOR = 1.1
_MARGIN_SECONDS = 5.0
# The database, the log, sockets that listen, libraries: what a worker has open besides its clients' connections.
_OTHER_FILES = 128


def longest_handover(max_connection_age: float) -> float:
    """Return the most seconds that a worker takes to hand over: until its last connection has reached its age."""
    return _AGE_FACTOR * max_connection_age + _MARGIN_SECONDS


def raise_file_limit() -> None:
    """Raise the soft limit of this process, and of those it starts, to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if sys.platform == "linux" else soft  # elsewhere the hard limit may be more than the kernel allows
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def allowed(wanted: int, pool_size: int) -> int:
    """Return how many connections clients may have: as many as wanted, but for those that no file would be left for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - pool_size - _OTHER_FILES))
