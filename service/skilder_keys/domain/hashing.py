"""How a secret is kept at rest, and how a verified token is recognised again."""

import hashlib
import secrets
from dataclasses import dataclass

import argon2

from skilder_keys.domain.token import Token


@dataclass(frozen=True, slots=True)
class HashParameters:
    """The cost of one argon2id hash (RFC 9106).

    A secret has 256 random bits, so no cost makes guessing it harder than it is; a high one would only let an attacker
    burn our CPU. The default takes about half a millisecond.

    Attributes:
        memory_kib: Memory, in KiB.
        passes: How often the memory is gone over.
        lanes: How many lanes it is divided into.
    """

    memory_kib: int = 1024
    passes: int = 1
    lanes: int = 1


class SecretHasher:
    """Makes and checks the argon2id hashes of secrets, as PHC strings."""

    def __init__(self, parameters: HashParameters) -> None:
        self._argon2 = argon2.PasswordHasher(
            time_cost=parameters.passes,
            memory_cost=parameters.memory_kib,
            parallelism=parameters.lanes,
            type=argon2.Type.ID,
        )

    def hash(self, secret: bytes) -> str:
        """Answers a PHC string with a salt of its own. Takes the CPU for as long as the parameters say."""
        return self._argon2.hash(secret)

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Tells whether the token's secret is the hashed one; argon2 compares in constant time.

        Raises:
            argon2.exceptions.InvalidHashError: The hash on record is no PHC string: a fault of ours, not of the token.
        """
        try:
            return self._argon2.verify(secret_hash, token.secret)
        except argon2.exceptions.VerifyMismatchError:
            return False

    def is_outdated(self, secret_hash: str) -> bool:
        """Tells whether a hash has other parameters than new ones get."""
        return self._argon2.check_needs_rehash(secret_hash)


class TokenFingerprint:
    """Gives tokens digests by which this process, and no other, knows them again: keyed BLAKE2b (RFC 7693)."""

    def __init__(self) -> None:
        self._keyed = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)

    def digest(self, token: str) -> bytes:
        """Answers 32 bytes that stand for a token's text for as long as this process lives."""
        digest = self._keyed.copy()
        digest.update(token.encode("utf-8", "surrogatepass"))
        return digest.digest()
