"""Revisions: the successive states of a database."""

from __future__ import annotations

from typing import NamedTuple


class Revision(NamedTuple):
    """A state of the database. The same epoch with another tag belongs to another history, e.g. after a restore.

    Attributes:
        epoch: The number of changes so far.
        tag: A random number, made by the transaction of the last change: 64 bits, signed.
    """

    epoch: int
    tag: int
