"""The data folder. Only one server may use it at a time."""

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
    """Create the folder if it does not exist, and lock it against other servers.

    Raises:
        DataFolderError: The folder cannot be used.
        DataFolderTakenError: Another server uses it.
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
