"""Write the records of the decision log as JSON Lines, in a thread, so that no call waits for a disk or a pipe."""

from __future__ import annotations

import json
import os
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.token import TOKEN_PATTERN

if TYPE_CHECKING:
    from pathlib import Path

MAX_WAITING = 10_000
"""How many records wait at most, which takes about 20 MB. More are dropped and counted."""

_STANDARD_OUTPUT = 1
# Several processes may write to one pipe. Up to this many bytes, which POSIX promises, their lines do not mix.
_ATOMIC_BYTES = 4096
_BATCH = 50
"""How many records are encoded before the thread writes, and so lets the event loop go on."""


class DecisionWriter:
    """Writes records to a file, or to standard output.

    Attributes:
        written: The number of records that were written.
        dropped: The number that was not, since too many waited or the write failed.
    """

    def __init__(self, path: Path | None, **fields: object) -> None:
        """Open the file, and start the thread.

        Args:
            path: The file to which lines are added; None for standard output.
            fields: What every record has.

        Raises:
            OSError: The file cannot be opened.
        """
        self.written = 0
        self.dropped = 0
        self._fields = fields
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._closes = path is not None
        self._descriptor = (
            _STANDARD_OUTPUT if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        )
        # A daemon: a pipe that nobody reads must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="decision log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of records that wait."""
        return self._queue.qsize()

    def put(self, record: dict[str, Any]) -> None:
        """Take a record, or drop it if too many wait."""
        if self._queue.qsize() >= MAX_WAITING:
            self.dropped += 1
        else:
            self._queue.put(record)

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for at most this many seconds."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._closes and not self._thread.is_alive():
            os.close(self._descriptor)

    def _run(self) -> None:
        record = self._queue.get()
        while record is not None:
            batch: list[dict[str, Any]] = []
            while record is not None:
                batch.append(record)
                if len(batch) == _BATCH:
                    break
                try:
                    record = self._queue.get_nowait()
                except Empty:
                    break
            self._write([self._line(each) for each in batch])
            if record is not None:
                record = self._queue.get()

    def _line(self, record: dict[str, Any]) -> bytes:
        # A caller may send a token where an id belongs.
        text = TOKEN_PATTERN.sub("(a token)", json.dumps(record | self._fields, ensure_ascii=False))
        return text.encode("utf-8", "backslashreplace") + b"\n"

    def _write(self, lines: list[bytes]) -> None:
        piece: list[bytes] = []
        size = 0
        for line in lines:
            if piece and size + len(line) > _ATOMIC_BYTES:
                self._write_piece(piece)
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        self._write_piece(piece)

    def _write_piece(self, lines: list[bytes]) -> None:
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # a full disk, or a pipe whose reader is gone
            self.dropped += len(lines)
        else:
            self.written += len(lines)
