"""The environment variables of the command."""

from __future__ import annotations

ENVIRONMENT_PREFIX = "SKILDER_KEYS_"


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()
