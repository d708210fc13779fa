"""Structured logs on standard error: one line for each event, no secrets."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TextIO, cast

# structlog loads rich, if it is installed, for tracebacks that this log does not use. That takes longer than anything
# else at the start of a worker, so structlog finds no rich.
_rich = sys.modules.pop("rich", None)
sys.modules["rich"] = cast("ModuleType", None)
import structlog  # noqa: E402

del sys.modules["rich"]
if _rich is not None:
    sys.modules["rich"] = _rich

from skilder_keys.log_format import is_for_people  # noqa: E402 - as above

if TYPE_CHECKING:
    from types import ModuleType

    from structlog.typing import FilteringBoundLogger, Processor

_STANDARD_ERROR = 2


def make_log(form: Literal["auto", "json", "console"]) -> FilteringBoundLogger:
    """Return the logger of the service.

    Warnings of libraries, which use Python's standard logging, are written in the same format.

    Args:
        form: JSON for programs, or colours for people; `auto` means colours if standard error is a terminal.
    """
    stamps: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks are written without local variables, because one of them may be a token.
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_for_people(form)
        else [
            structlog.processors.EventRenamer("message"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    stream = cast("TextIO", _SafeStandardError())
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


class _SafeStandardError:
    """Standard error that ignores errors, so that a full disk or a closed pipe does not make calls fail.

    It has no buffer, because writing the rest of a buffer could fail when the process ends.
    """

    def write(self, text: str) -> None:
        """Write a text, if possible."""
        with suppress(OSError):
            os.write(_STANDARD_ERROR, text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Do nothing: there is no buffer."""
