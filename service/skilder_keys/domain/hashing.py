"""How a secret is stored, and how a process recognises a token that it has verified."""

import hashlib
import secrets
from dataclasses import dataclass

import argon2

from skilder_keys.domain.token import Token


@dataclass(frozen=True, slots=True)
class HashParameters:
    """The cost of one argon2id hash (RFC 9106).

    A secret has 256 random bits, so a slow hash does not make it harder to guess. It would only let an attacker use up
    our CPU. The default takes less than a fifth of a millisecond.

    Attributes:
        memory_kib: Memory, in KiB.
        passes: The number of passes over the memory.
        lanes: The number of lanes that the memory is divided into.
    """

    memory_kib: int = 256
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
        self._head = (
            f"$argon2id$v={argon2.low_level.ARGON2_VERSION}"
            f"$m={parameters.memory_kib},t={parameters.passes},p={parameters.lanes}$"
        )

    def hash(self, secret: bytes) -> str:
        """Return a PHC string with a random salt. This takes CPU time, as the parameters set it."""
        return self._argon2.hash(secret)

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Return whether a hash is that of the token's secret; argon2 compares in constant time.

        Raises:
            argon2.exceptions.InvalidHashError: The stored hash is not a PHC string, which is never the token's fault.
        """
        try:
            return self._argon2.verify(secret_hash, token.secret)
        except argon2.exceptions.VerifyMismatchError:
            return False

    def is_outdated(self, secret_hash: str) -> bool:
        """Return whether a hash was made with other parameters than these."""
        return not secret_hash.startswith(self._head)


class TokenFingerprint:
    """Computes digests with keyed BLAKE2b (RFC 7693). The random key never leaves the memory of one server."""

    def __init__(self, key: bytes | None = None) -> None:
        """Use a key of 32 random bytes, or make one."""
        self._keyed = hashlib.blake2b(key=key or secrets.token_bytes(32), digest_size=32)

    def digest(self, token: str) -> bytes:
        """Return the digest of a token's text, 32 bytes."""
        digest = self._keyed.copy()
        digest.update(token.encode("utf-8", "surrogatepass"))
        return digest.digest()
