"""Page tokens: the position where the next page begins, sealed so that nobody else can make or change one."""

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING

from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.records import canonical_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SEAL_BYTES = 16
# An id of 255 characters may have 1,020 bytes.
_MAX_TOKEN = 2048
_MAX_CURSOR = 2**14
"""A cursor may name every transaction that was under way."""


def listing(method: str, actor: str | None, selection: "DataclassInstance | None" = None) -> str:
    """Return what is listed, as one text. It is different for each method, actor, filter and order.

    Args:
        method: The name of the method.
        actor: The actor of the call; None without one.
        selection: The record of the filter and the order; None if the method has neither.
    """
    chosen = "" if selection is None else canonical_json(selection)
    return f"{method} {json.dumps(actor)} {chosen}"


class PageTokens:
    """Seals positions into page tokens and opens them again.

    A token is base64url (RFC 4648) of an HMAC-SHA-256 (RFC 2104, cut to 128 bits) followed by the position. The seal
    covers the listing too, so a token is valid only with the method, filter, order and actor that it was made for.
    """

    def __init__(self, key: bytes) -> None:
        """Make the sealer.

        Args:
            key: At least 16 random bytes, the same in every process of the fleet.
        """
        self._key = key

    def seal(self, listing: str, position: str) -> str:
        """Return the token for a position in a listing, e.g. the last id of a page.

        Args:
            listing: What is listed, as `listing` returns it.
            position: Where the page ends.
        """
        body = position.encode()
        return base64.urlsafe_b64encode(self._seal(listing, body) + body).decode().rstrip("=")

    def open(self, listing: str, token: str) -> str | None:
        """Return the position in a token; None for the empty token, which asks for the first page.

        Raises:
            InvalidRequestError: `page_token` was not made here, was changed, or is for another listing.
        """
        if not token:
            return None
        position = self._opened(listing, token, _MAX_TOKEN)
        if position is None:
            raise InvalidRequestError(
                FieldViolation("page_token", "is not the next_page_token of a call with the same filter and actor")
            )
        return position

    def open_cursor(self, listing: str, cursor: str) -> str:
        """Return the position in a token that a stream has sent as its cursor.

        Raises:
            InvalidRequestError: `cursor` was not made here, was changed, or is for another listing.
        """
        position = self._opened(listing, cursor, _MAX_CURSOR)
        if position is None:
            raise InvalidRequestError(
                FieldViolation("cursor", "is not a cursor of a call with the same workspace, filter and actor")
            )
        return position

    def _opened(self, listing: str, token: str, longest: int) -> str | None:
        position = _position(token) if len(token) <= longest else None
        # To seal the position again, instead of only checking the seal, also rejects other spellings of the token.
        if position is None or not hmac.compare_digest(token.encode(), self.seal(listing, position).encode()):
            return None
        return position

    def _seal(self, listing: str, body: bytes) -> bytes:
        message = len(listing.encode()).to_bytes(4, "big") + listing.encode() + body
        return hmac.digest(self._key, message, hashlib.sha256)[:_SEAL_BYTES]


def _position(token: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(token.encode("ascii") + b"==")[_SEAL_BYTES:].decode()
    except ValueError:
        return None
