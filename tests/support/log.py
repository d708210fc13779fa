"""Logs of what is tested, as the events that they tell."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from pathlib import Path


class Log(Protocol):
    """A log of the service's. Each of its lines is an event, with what else the line tells."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """All of it so far."""

    def text(self) -> str:
        """Return all of it."""

    def calls(self, method: str) -> list[dict[str, Any]]:
        """Return the lines of the calls of a method, e.g. `KeyService/IssueKey`."""
        return [each for each in self.events if each["event"] == "call" and each["method"] == method]


class CapturedLog(Log):
    """A log that is kept in memory, as the lines it would write."""

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
        """All of it so far."""
        return self._events

    def text(self) -> str:
        """Return all of it."""
        return "\n".join(json.dumps(each, default=str) for each in self._events)


class LogFile(Log):
    """A file that a worker has for its standard error, where it logs in JSON.

    A line is in it before the worker goes on, and so before the answer to the call that it is about.
    """

    def __init__(self, path: Path) -> None:
        """Take the file, which is there."""
        self._path = path
        self._events: list[dict[str, Any]] = []
        self._bytes_read = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        """All of it so far; what is written by others than the service has a `logger`, such as `envoy main`."""
        with self._path.open("rb") as file:
            file.seek(self._bytes_read)
            lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # it is still being written
        self._bytes_read += sum(map(len, lines))
        self._events += [_event(line.decode("utf-8", "replace").rstrip("\n")) for line in lines]
        return self._events

    def text(self) -> str:
        """Return all of it."""
        return self._path.read_text("utf-8", "replace")

    def faults(self) -> list[dict[str, Any]]:
        """Return what no worker may write: errors of libraries and of Envoy, and what is no line of a log at all."""
        return [each for each in self.events if "logger" in each and each["level"] in {"error", "critical"}]


def _event(line: str) -> dict[str, Any]:
    """Return what a line tells, by the names of the service's own log."""
    try:
        reported = json.loads(line)
        return {"event": reported.pop("message"), **reported}
    except (ValueError, KeyError, AttributeError):
        return {"event": line, "level": "error", "logger": "nobody's"}
