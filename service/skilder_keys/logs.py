"""Structured logs on standard error: one line an event, no secrets."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

_STANDARD_ERROR = 2


def make_log(form: Literal["auto", "json", "console"]) -> FilteringBoundLogger:
    """Makes the service's logger: JSON for programs, or colours for people; `auto` chooses by the terminal.

    The warnings of libraries, which use the standard logging, take the same form.
    """
    stamps: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Frames are told without their local variables: one of those may be a token.
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_for_people(form)
        else [
            structlog.processors.EventRenamer("message"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    stream = cast("TextIO", _Unfailing())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *stamps],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[*stamps, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    return log


def is_for_people(form: Literal["auto", "json", "console"]) -> bool:
    """Tells whether lines in this form are for people here."""
    return form == "console" or (form == "auto" and sys.stderr.isatty())


class _Unfailing:
    """Standard error, but for its errors: a full disk or a reader that is gone must not fail the calls logged there.

    Nothing is kept in a buffer, whose rest would fail the end of the process.
    """

    def write(self, text: str) -> None:
        """Writes, if it can be done."""
        with suppress(OSError):
            os.write(_STANDARD_ERROR, text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Has nothing to do."""
