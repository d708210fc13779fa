"""Whether log lines are for people or for programs.

This is not in `logs`, because a process that becomes Envoy needs only this, and `logs` takes long to load.
"""

from __future__ import annotations

import sys
from typing import Literal


def is_for_people(form: Literal["auto", "json", "console"]) -> bool:
    """Return whether log lines are for people, with `auto` decided by the terminal."""
    return form == "console" or (form == "auto" and sys.stderr.isatty())
