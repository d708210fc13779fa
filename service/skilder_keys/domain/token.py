"""The token: what an agent holds.

`PREFIX_` + key id (128 bits, 22 base62 characters) + secret (256 bits, 43 characters) + CRC-32 (RFC 1952) of everything
before it (6 characters): 75 characters, `^(WSK|USK|RTK)_[0-9A-Za-z]{71}$`. Base62 is big-endian, padded with `0`, with
digits before upper case before lower case, so tokens of one type sort like their key ids. Each token has exactly one
spelling.
"""

import re
import secrets
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Self
from uuid import UUID

from skilder_keys.domain.ids import KeyId

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE = len(_ALPHABET)
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # encoded two digits at a time
_PREFIX_LENGTH = 4
_ID_LENGTH = 22
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_HINT_LENGTH = 10
SECRET_BYTES = 32
_DIGITS = bytes(max(0, _ALPHABET.find(chr(code))) for code in range(256))
_MAX_DIGITS = 64
# How to join neighbours in a row of numbers of 8, 16, ... bits: the bits of one, a mask of each second one, and by what
# the upper one of two is multiplied. Each token that a process has not seen before is decoded, so it has to be quick.
_JOINS = [
    (bits, sum(((1 << bits) - 1) << at for at in range(0, 8 * _MAX_DIGITS, 2 * bits)), _BASE ** (bits // 8))
    for bits in (8, 16, 32, 64, 128, 256)
]

TOKEN_PATTERN = re.compile(r"(?:WSK|USK|RTK)_[0-9A-Za-z]{71}")
HINT_PATTERN = re.compile(r"(?:WSK|USK|RTK)_[0-9A-Za-z]{10}")


class KeyType(Enum):
    """The type of a key, which decides what it is for."""

    WORKSPACE = "workspace"
    USER = "user"
    RUNTIME = "runtime"


PREFIXES = {KeyType.WORKSPACE: "WSK_", KeyType.USER: "USK_", KeyType.RUNTIME: "RTK_"}
_TYPES = {prefix: key_type for key_type, prefix in PREFIXES.items()}


class MalformedTokenError(ValueError):
    """This is not a token."""


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """The parts of a token.

    Attributes:
        type: The type that the prefix names. Not verified: compare it with the stored type.
        key_id: The key that the token names. Not verified: verify the secret with the stored hash.
        secret: 32 random bytes.
    """

    type: KeyType
    key_id: KeyId
    secret: bytes

    def __repr__(self) -> str:
        """Return a text without the secret, so that a token in a log or a traceback reveals nothing."""
        return f"<Token {self.hint}…>"

    @property
    def hint(self) -> str:
        """The hint of the key that the token names."""
        return hint(self.type, self.key_id)

    @classmethod
    def mint(cls, key_type: KeyType, key_id: KeyId) -> Self:
        """Return a token with a new random secret."""
        return cls(key_type, key_id, new_secret())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the parts of a token's text.

        Raises:
            MalformedTokenError: The length, a character, the prefix, a value or the checksum is wrong.
        """
        if not TOKEN_PATTERN.fullmatch(text):
            raise MalformedTokenError
        body, checksum = text[:-_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
        if _decode(checksum) != zlib.crc32(body.encode("ascii")):
            raise MalformedTokenError
        key_id = _decode(body[_PREFIX_LENGTH : _PREFIX_LENGTH + _ID_LENGTH])
        secret = _decode(body[_PREFIX_LENGTH + _ID_LENGTH :])
        if key_id.bit_length() > 128 or secret.bit_length() > 8 * SECRET_BYTES:  # noqa: PLR2004 - a UUID has 128 bits
            raise MalformedTokenError
        return cls(_TYPES[text[:_PREFIX_LENGTH]], KeyId(UUID(int=key_id)), secret.to_bytes(SECRET_BYTES, "big"))

    def reveal(self) -> str:
        """Return the text of the token. Use it only for the response that shows it, and to recognise the token."""
        body = _id_part(self.type, self.key_id) + _encode(int.from_bytes(self.secret, "big"), _SECRET_LENGTH)
        return body + _checksum(body)


def new_secret() -> bytes:
    """Return the random bytes of a new token's secret."""
    return secrets.token_bytes(SECRET_BYTES)


def id_text(key_id: KeyId) -> str:
    """Return a key's id as tokens spell it: 22 characters."""
    return _encode(key_id.int, _ID_LENGTH)


def claimed_id_text(text: str) -> str:
    """Return the characters that are the id if a text is a token. Nothing is checked."""
    return text[_PREFIX_LENGTH : _PREFIX_LENGTH + _ID_LENGTH]


def hint(key_type: KeyType, key_id: KeyId) -> str:
    """Return the prefix and the last 10 characters of the id, by which people distinguish keys.

    The 10 characters stand for 59 random bits at the end of the id. Its beginning is the time of issue, which is the
    same for keys that were issued together. The hint has nothing of the secret.
    """
    return PREFIXES[key_type] + id_text(key_id)[-_HINT_LENGTH:]


def hint_of(text: str) -> str:
    """Return the hint of a text that has the form of a token; empty if it has not."""
    try:
        token = Token.parse(text)
    except MalformedTokenError:
        return ""
    return token.hint


def parse_hint(text: str) -> tuple[KeyType, int]:
    """Return the type of the key that a hint names, and its id modulo 62^10. The text must have HINT_PATTERN."""
    return _TYPES[text[:_PREFIX_LENGTH]], _decode(text[_PREFIX_LENGTH:])


def _id_part(key_type: KeyType, key_id: KeyId) -> str:
    return PREFIXES[key_type] + id_text(key_id)


def _checksum(body: str) -> str:
    return _encode(zlib.crc32(body.encode("ascii")), _CHECKSUM_LENGTH)


def _encode(number: int, length: int) -> str:
    pairs = []
    for _ in range(length // 2):
        number, pair = divmod(number, len(_PAIRS))
        pairs.append(_PAIRS[pair])
    if length % 2:
        pairs.append(_ALPHABET[number % _BASE])
    pairs.reverse()
    return "".join(pairs)


def _decode(text: str) -> int:
    number = int.from_bytes(text.encode("ascii").translate(_DIGITS), "big")  # a byte for each digit
    for bits, mask, base in _JOINS:
        number = (number & mask) + (number >> bits & mask) * base
    return number
