"""Temporary files in memory, where there is room: the tests create hundreds of databases, of hundreds of files each."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

_FOLDER = Path("/dev/shm")  # noqa: S108 - tempfile creates private folders in it
_NEEDED = 4 * 2**30


def use_memory() -> None:
    """Keep temporary files of this process, and of those that it starts, in memory. TMPDIR, if set, comes first."""
    if "TMPDIR" not in os.environ and _has_room():
        os.environ["TMPDIR"] = str(_FOLDER)
        tempfile.tempdir = None


def _has_room() -> bool:
    """Return whether there is a file system in memory with enough space, from which programs may run."""
    try:
        system = os.statvfs(_FOLDER)
    except OSError:
        return False
    room = min(system.f_bavail * system.f_frsize, psutil.virtual_memory().available // 2)
    return room >= _NEEDED and not system.f_flag & os.ST_NOEXEC and os.access(_FOLDER, os.W_OK | os.X_OK)
