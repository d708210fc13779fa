"""A call as its transport sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class Context(Protocol):
    """A call as its transport sees it."""

    def credentials(self) -> str | None:
        """Answers the metadata `authorization`, or None without."""

    def certificate_names(self) -> Iterable[str]:
        """Answers the subject alternative names in the client's certificate, if it has shown one that was verified."""

    def peer(self) -> str:
        """Answers the client's address, e.g. `ipv4:127.0.0.1:41234`."""

    async def read(self, max_bytes: int) -> object:
        """Return the bytes of the next message; something else where there is none.

        Raises:
            MessageTooLongError: It has more than so many bytes, as it is or once it is decompressed.
        """
