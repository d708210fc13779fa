"""The data folder, which one server at a time may use."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class DataFolderError(Exception):
    """The data folder cannot be used."""


class DataFolderTakenError(DataFolderError):
    """Another server uses this data folder."""


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Make the folder if it is missing, and keep other servers out of it.

    Raises:
        DataFolderError: It cannot be used, or another server uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / "lock").open("w")
    except OSError as error:
        raise DataFolderError(
            f"The data folder {folder} cannot be used: {error.strerror} ({error.filename})."
        ) from None
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataFolderTakenError(f"Another skilder-keys serves from {folder}: set another data folder.") from None
        yield
