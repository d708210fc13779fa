"""Write the records of the decision log in a thread, so that no call waits for a disk, a pipe or a collector."""

from __future__ import annotations

import json
import os
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from skilder_keys.domain.token import TOKEN_PATTERN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_WAITING = 10_000
"""How many records wait at most, which takes about 20 MB. More are dropped and counted."""

_STANDARD_OUTPUT = 1
# Several processes may write to one pipe. Up to this many bytes, which POSIX promises, their lines do not mix.
_ATOMIC_BYTES = 4096
_BATCH = 50
"""How many records are encoded before the thread writes, and so lets the event loop go on."""


class Output(Protocol):
    """Where records go, as texts of JSON."""

    def write(self, records: Sequence[str]) -> int:
        """Write records, and return how many were written; the others are lost."""

    def close(self) -> None:
        """Write no more."""


class DecisionWriter:
    """Gives records to an output, one after the other.

    Attributes:
        written: The number of records that were written.
        dropped: The number that was not, since too many waited or the write failed.
    """

    def __init__(self, output: Output, **fields: object) -> None:
        """Start the thread.

        Args:
            output: Where the records go.
            fields: What every record has.
        """
        self.written = 0
        self.dropped = 0
        self._output = output
        self._fields = fields
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
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
        if not self._thread.is_alive():
            self._output.close()

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
            written = self._output.write([self._text(each) for each in batch])
            self.written += written
            self.dropped += len(batch) - written
            if record is not None:
                record = self._queue.get()

    def _text(self, record: dict[str, Any]) -> str:
        # A caller may send a token where an id belongs.
        return TOKEN_PATTERN.sub("(a token)", json.dumps(record | self._fields, ensure_ascii=False))


class LineFile:
    """A file, or standard output, that gets a line for each record."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, to which lines are added; None means standard output.

        Raises:
            OSError: The file cannot be opened.
        """
        self._closes = path is not None
        self._descriptor = (
            _STANDARD_OUTPUT if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        )

    def write(self, records: Sequence[str]) -> int:
        """Write records, as `Output.write` does. Those of other processes do not get between two parts of a line."""
        written = 0
        piece: list[bytes] = []
        size = 0
        for record in records:
            line = record.encode("utf-8", "backslashreplace") + b"\n"
            if piece and size + len(line) > _ATOMIC_BYTES:
                written += self._write_piece(piece)
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        return written + self._write_piece(piece)

    def close(self) -> None:
        """Close the file."""
        if self._closes:
            os.close(self._descriptor)

    def _write_piece(self, lines: list[bytes]) -> int:
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # a full disk, or a pipe whose reader is gone
            return 0
        return len(lines)
