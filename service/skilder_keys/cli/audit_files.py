"""The file of `audit export`: private, appended to, and whole lines only."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.domain.audit_export import ExportError, ExportReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO


@contextmanager
def appended(path: Path) -> Iterator[tuple[BinaryIO, ExportReader]]:
    """Open an export to append to, which is made if it is not there, and read what it has.

    A last line without an end is removed: the export that wrote it was stopped. What was written is on the disk when
    this ends.
    """
    try:
        with _opened(path, os.O_RDWR | os.O_CREAT) as file:
            reader = ExportReader()
            file.seek(_read(path, file, reader))
            file.truncate()
            yield file, reader
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise fail(f"{path}: {error.strerror}", Exit.FAILED) from None


def read(path: Path, wanted: Mapping[str, int]) -> ExportReader:
    """Read an export. `wanted` is as for `ExportReader`."""
    try:
        with _opened(path, os.O_RDONLY) as file:
            reader = ExportReader(wanted)
            _read(path, file, reader)
            return reader
    except OSError as error:
        raise fail(f"{path}: {error.strerror}", Exit.USAGE) from None


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[BinaryIO]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    writes = flags & os.O_RDWR
    with os.fdopen(descriptor, "r+b" if writes else "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise fail(f"{path} is not a file", Exit.USAGE)
        if status.st_mode & 0o077:
            raise fail(f"{path} can be read by others, and it has personal data: chmod 600 {path}", Exit.USAGE)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if writes else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise fail(f"{path} is being written by another export: try again later", Exit.UNAVAILABLE) from None
        yield file


def _read(path: Path, file: BinaryIO, reader: ExportReader) -> int:
    """Read all lines, and return where the last whole line ends."""
    end = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break
        try:
            reader.read(line.decode())
        except (ExportError, UnicodeDecodeError) as error:
            raise fail(f"{path}, line {number}: {error}", Exit.CONFLICT) from None
        end += len(line)
    return end
