"""Memory that the workers share and that outlives them. What they keep there is theirs: see `authorization.proofs`."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY_BYTES = 32
_BYTES_FOR_A_KEY = 128
"""Two entries of 64 bytes, see `authorization.proofs`. A worker of another version takes what there is."""


@contextmanager
def shared_memory(keys: int) -> Iterator[int]:
    """Make memory for some keys, and yield its descriptor. It has no name, and is on no disk.

    The first 32 bytes are random: a key for the workers. The others are zero, and take no memory until they are used.
    """
    descriptor = os.memfd_create("skilder-keys")
    try:
        os.truncate(descriptor, _KEY_BYTES + keys * _BYTES_FOR_A_KEY)
        os.pwrite(descriptor, secrets.token_bytes(_KEY_BYTES), 0)
        yield descriptor
    finally:
        os.close(descriptor)
