"""Logs of what is tested, as events."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from pathlib import Path


class Log(Protocol):
    """A log of the service. Each line is an event with its fields."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far."""

    def text(self) -> str:
        """Return the whole text."""

    def calls(self, method: str) -> list[dict[str, Any]]:
        """Return the lines about calls of a method, e.g. `KeyService/IssueKey`."""
        return [each for each in self.events if each["event"] == "call" and each["method"] == method]


class CapturedLog(Log):
    """A log that is kept in memory, with the lines that the service would write."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self.logger: Any = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, self._keep],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )

    def _keep(self, _logger: Any, _method: str, event: Any) -> str:
        self._events.append(dict(event))
        return ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return self._events

    def text(self) -> str:
        """Return the whole text."""
        return "\n".join(json.dumps(each, default=str) for each in self._events)


class LogFile(Log):
    """The file that is a worker's standard error, where it logs in JSON.

    A worker writes a line before it continues, so a call's line is in the file before the call's response.
    """

    def __init__(self, path: Path, begin: int = 0) -> None:
        """Open an existing file; the log is what it holds from the byte `begin` on."""
        self._path = path
        self._begin = begin
        self._events: list[dict[str, Any]] = []
        self._bytes_read = begin

    def from_now(self) -> LogFile:
        """Return the log of what is written from now on."""
        return LogFile(self._path, self._path.stat().st_size)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far. Lines that others than the service wrote have a `logger`, such as `envoy main`."""
        with self._path.open("rb") as file:
            file.seek(self._bytes_read)
            lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # it is still being written
        self._bytes_read += sum(map(len, lines))
        self._events += [_event(line.decode("utf-8", "replace").rstrip("\n")) for line in lines]
        return self._events

    def text(self) -> str:
        """Return the whole text."""
        return self._path.read_bytes()[self._begin :].decode("utf-8", "replace")

    def faults(self) -> list[dict[str, Any]]:
        """Return what no worker may write: errors of libraries and of Envoy, and lines that are not log lines."""
        return [each for each in self.events if "logger" in each and each["level"] in {"error", "critical"}]


def _event(line: str) -> dict[str, Any]:
    """Return the event of a line, with the names that the service's own log uses."""
    try:
        reported = json.loads(line)
        return {"event": reported.pop("message"), **reported}
    except (ValueError, KeyError, AttributeError):
        return {"event": line, "level": "error", "logger": "nobody's"}
