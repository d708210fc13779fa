"""A call as its transport sees it."""

from __future__ import annotations

from typing import Protocol

from skilder_keys.auth.callers import Credentials


class Context(Credentials, Protocol):
    """A call as its transport sees it."""

    def time_remaining(self) -> float | None:
        """Return about how many seconds the client still waits; None if it has no deadline."""

    def metadata(self, name: str) -> str | None:
        """Return a value of the call's metadata, or None without it. Repeated values are joined by commas."""

    async def read(self, max_bytes: int) -> object:
        """Return the bytes of the next message; another object if there is none.

        Raises:
            MessageTooLongError: The message has more bytes than `max_bytes`, compressed or decompressed.
        """


class StreamContext(Context, Protocol):
    """A call whose response is a stream of messages."""

    async def write(self, message: bytes) -> None:
        """Send a message. Return when there is room for the next one, so that a slow client needs little memory."""
