"""A line that says how far the tests are and which ones run: on a terminal always the last, else printed at times."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_TERMINAL_SECONDS = 0.5
_PIPE_SECONDS = 10.0
_PIPE_WIDTH = 160
_ERASE = "\r\x1b[K"

Status = tuple[str, str, "str | tuple[str, dict[str, bool]]"]


class Progress:
    """A plugin of pytest in the place of its dots. It names failures at once; with -q or -v the rest is pytest's."""

    def __init__(self, config: pytest.Config) -> None:
        """Take the configuration of the process that prints."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        reporter.showfspath = False  # it would print the names of the files
        self._terminal = config.get_terminal_writer()
        self._in_place = self._terminal.hasmarkup
        self._began = time.monotonic()
        self._total = self._done = 0
        self._running: dict[str, None] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._show_at_times, daemon=True)
        self._thread.start()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note how many tests there are, where this process runs them."""
        self._total = max(self._total, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note how many tests there are, where other processes run them."""
        self._total = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test begins."""
        self._running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that a test has ended."""
        self._running.pop(nodeid, None)
        self._done += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name a test that failed."""
        if report.failed:
            with self._lock:
                self._write(f"FAILED {report.nodeid} ({report.when})\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Status, Status]:
        """Leave the counts to pytest, and print no dot."""
        category, _, _ = yield
        return category, "", ""

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Print the last line."""
        self._over.set()
        self._thread.join()
        with self._lock:
            self._write(self._line(self._terminal.fullwidth) + "\n")
        return (yield)

    def _show_at_times(self) -> None:
        while not self._over.wait(_TERMINAL_SECONDS if self._in_place else _PIPE_SECONDS):
            with self._lock:
                if self._in_place:
                    self._write(self._line(self._terminal.fullwidth - 1))
                else:
                    self._write(self._line(_PIPE_WIDTH) + "\n")

    def _line(self, width: int) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        percent = 100 * self._done // max(self._total, 1)
        line = f"[{percent:3} %] {self._done:,} of {self._total:,}, {minutes}:{seconds:02}"
        if names := [each.rpartition("::")[2] for each in list(self._running)]:
            line += f", running: {', '.join(names)}"
        return line if len(line) <= width else line[: width - 1] + "…"

    def _write(self, text: str) -> None:
        self._terminal.write((_ERASE if self._in_place else "") + text, flush=True)
