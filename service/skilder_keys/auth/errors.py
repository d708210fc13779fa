"""The error of a start that cannot read who may call."""

from __future__ import annotations


class CallersFileError(Exception):
    """The callers file, or the file with the operator's token, cannot be used."""
