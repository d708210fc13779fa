"""The machine that the results were measured on."""

from __future__ import annotations

import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil


def machine() -> str:
    """Return a sentence about the processor, memory, system and versions."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    return (
        f"Taken on {datetime.now(UTC):%Y-%m-%d} on {psutil.cpu_count()} cores of {model[1] if model else '?'}, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, grpcio {version('grpcio')}, protobuf {version('protobuf')}, "
        f"asyncpg {version('asyncpg')}; load generator, service and Postgres together."
    )
