"""The table of the largest requests, from the limits that the service checks."""

from __future__ import annotations

from skilder_keys.rpc import limits
from tests.docs.contract import services

_KIB, _MIB = 2**10, 2**20


def table() -> str:
    """Return the table: each method with a limit of its own, and one row for all others."""
    rows = ["| method | largest request |", "|---|---|"]
    methods = [method.name for service in services() for method in service.methods]
    rows += [f"| `{name}` | {_size(limits.METHODS[name])} |" for name in methods if name in limits.METHODS]
    return "\n".join([*rows, f"| every other | {_size(limits.MAX_BYTES)} |"])


def _size(count: int) -> str:
    return f"{count // _MIB} MiB" if count >= _MIB else f"{count // _KIB} KiB"
