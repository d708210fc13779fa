"""Revisions: the states that a database goes through."""

from __future__ import annotations

from typing import NamedTuple


class Revision(NamedTuple):
    """A state of the database. The same epoch with another tag is a state of another history.

    Attributes:
        epoch: How many changes led to it.
        tag: A random number, made by the transaction that made the last change: 64 bits, signed.
    """

    epoch: int
    tag: int
