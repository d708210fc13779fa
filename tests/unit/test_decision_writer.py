"""The file of the decision log, and what happens where it cannot be written."""

from __future__ import annotations

import json
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from skilder_keys.domain.token import KeyType, Token
from skilder_keys.worker.decision_writer import MAX_WAITING, DecisionWriter, LineFile
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from pathlib import Path


def lines(path: Path) -> list[dict[str, object]]:
    """Return the records of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_records_are_added_line_by_line_and_all_of_them_at_the_end(tmp_path: Path) -> None:
    """To what the file has; nobody else may read it. Each record has the writer's own fields."""
    path = tmp_path / "decisions.jsonl"
    for worker in (0, 1):
        writer = DecisionWriter(LineFile(path), worker=worker)
        for number in range(500):
            writer.put({"number": number, "text": "ä\n"})
        writer.close()
        assert (writer.written, writer.dropped, writer.waiting) == (500, 0, 0)
    assert lines(path) == [
        {"number": number, "text": "ä\n", "worker": worker} for worker in (0, 1) for number in range(500)
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_in_a_record_is_not_written(tmp_path: Path) -> None:
    """As where a caller sends one in place of the id of a tool."""
    token = Token.mint(KeyType.USER, new_key_id()).reveal()
    writer = DecisionWriter(LineFile(tmp_path / "decisions.jsonl"))
    writer.put({"tool": token, "mcp_server": f"x{token}"})
    writer.close()
    assert lines(tmp_path / "decisions.jsonl") == [{"tool": "(a token)", "mcp_server": "x(a token)"}]


def test_a_reader_that_reads_nothing_holds_nobody_up_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    """A full pipe: records are dropped beyond a bound, and the others are written when it is read again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = DecisionWriter(LineFile(pipe))
    many = 3 * MAX_WAITING
    for number in range(many):
        writer.put({"number": number, "text": "x" * 100})
    assert writer.waiting <= MAX_WAITING
    assert writer.dropped >= many - MAX_WAITING - 5_000
    read = b""
    while writer.waiting or read.count(b"\n") < writer.written:
        try:
            read += os.read(reading, 2**16)
        except BlockingIOError:
            time.sleep(0)
    writer.close()
    while piece := os.read(reading, 2**16):
        read += piece
    os.close(reading)
    assert read.count(b"\n") == writer.written == many - writer.dropped


def test_a_disk_that_is_full_is_counted(tmp_path: Path) -> None:
    """And the next record is tried again."""
    (tmp_path / "full").symlink_to("/dev/full")
    writer = DecisionWriter(LineFile(tmp_path / "full"))
    writer.put({})
    writer.put({})
    writer.close()
    assert (writer.written, writer.dropped) == (0, 2)


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """At the start, where somebody sees it."""
    with pytest.raises(OSError, match="missing"):
        DecisionWriter(LineFile(tmp_path / "missing" / "decisions.jsonl"))


def test_pieces_of_lines_are_written_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most as many bytes at once as a pipe takes without mixing them with those of other processes."""
    sizes = []
    write = os.write

    def spy(descriptor: int, data: bytes) -> int:
        sizes.append((len(data), bytes(data[-1:])))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", spy)
    writer = DecisionWriter(LineFile(tmp_path / "decisions.jsonl"))
    for number in range(1000):
        writer.put({"number": number, "text": "x" * (number % 200)})
    writer.close()
    assert max(size for size, _ in sizes) <= 4096
    assert {end for _, end in sizes} == {b"\n"}
