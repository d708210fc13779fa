"""The clients in clients/, as programs that make the calls of the conformance cases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.support import go_client, java_client, typescript_client
from tests.support.stubs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PYTHON = ROOT / "clients" / "python"
PYTHON_SOURCES = _PYTHON / "src"


def _python(*arguments: str) -> Sequence[str]:
    # By its path, so that no other package of that name is taken.
    path = f"import sys, runpy; sys.path.insert(0, {str(PYTHON_SOURCES)!r}); sys.argv[1:] = {arguments!r}; "
    return [sys.executable, "-c", f"{path}runpy.run_path({str(_PYTHON / 'conformance' / 'driver.py')!r})"]


DRIVERS: dict[str, Callable[[], Sequence[str]]] = {
    "go": go_client.conformance_driver,
    "java": java_client.conformance_driver,
    "python": _python,
    "python-aio": lambda: _python("aio"),
    "typescript": typescript_client.conformance_driver,
}
"""What builds the program of a client and returns its command. Without what that takes, it fails in CI and skips
the test elsewhere."""
