"""The standard streams of a command."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from skilder_keys.cli import stdio
stdio.prepare()
%s
"""


def run(body: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """Run statements in a process whose streams were prepared by `stdio`."""
    return subprocess.run([sys.executable, "-c", PROGRAM % body], stdout=stdout, stderr=subprocess.PIPE, check=False)


def test_a_non_blocking_pipe_loses_nothing() -> None:
    """Another process may have made a shared pipe non-blocking; then it can fill up."""
    done = run("os.set_blocking(1, False); print('x' * 1_000_000)")
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 1_000_001, b"")


def test_nothing_is_printed_after_a_failed_write() -> None:
    """The interpreter's shutdown does not complain or change the exit code."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = run(
            "try:\n    print('x' * 100_000)\nexcept stdio.OutputError as error:\n    print('more'); sys.exit(7)",
            full.fileno(),
        )
    assert (done.returncode, done.stderr) == (7, b"")


def test_standard_error_shows_no_token() -> None:
    """Whatever code writes to it."""
    token = f"WSK_{'0' * 71}"
    done = run(f"print('usage: {token} is no option', file=sys.stderr)")
    assert done.stderr == "usage: … is no option\n".encode()


INTERRUPTED = """
import signal
write = os.write
def interrupted(number, data):
    write(number, data)
    os.write = write
    signal.raise_signal(signal.SIGINT)
os.write = interrupted
try:
    print('first', file=sys.%s)
except KeyboardInterrupt:
    print('stopped', file=sys.stderr)
stdio.flush()
"""


def test_ctrl_c_right_after_a_write_prints_nothing_twice() -> None:
    """The signal comes when the data is written, before anybody knows how much of it was."""
    done = run(INTERRUPTED % "stdout")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"first\n", b"stopped\n")


def test_ctrl_c_does_not_silence_standard_error() -> None:
    """It still says what the interrupted command has done."""
    assert run(INTERRUPTED % "stderr").stderr.endswith(b"stopped\n")
