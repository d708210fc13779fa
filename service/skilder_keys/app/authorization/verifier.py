"""Verify tokens: with argon2 the first time, in threads; later by their digest."""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from skilder_keys.app.batching import SingleFlight
from skilder_keys.domain.errors import BusyError
from skilder_keys.storage import credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from skilder_keys.domain.hashing import SecretHasher, TokenFingerprint
    from skilder_keys.domain.keys import Credential
    from skilder_keys.domain.token import Token
    from skilder_keys.storage.database import Database

Result = TypeVar("Result")

MAX_QUEUE = 1000
"""The most different tokens of one key that may wait to be verified."""


class Verifier:
    """Verifies tokens, and hashes the secrets of new ones.

    Whether a secret has a given hash never changes, so a verified token can be remembered without a time limit. This
    says nothing about whether its key may still be used. The digest of a token is remembered, never the token.

    The tokens for one hash are verified one after another, and the hashes take turns on the threads. So a flood of
    wrong secrets for one key occupies at most one thread, and a token of another key waits for one of them at most.
    """

    def __init__(
        self, hasher: SecretHasher, fingerprint: TokenFingerprint, *, threads: int = 2, capacity: int = 100_000
    ) -> None:
        """Make a verifier.

        Args:
            hasher: Hashes secrets and verifies them.
            fingerprint: Computes the digests of tokens.
            threads: The most threads for argon2.
            capacity: The most verified tokens to remember.
        """
        self._hasher = hasher
        self._fingerprint = fingerprint
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._threads = asyncio.Semaphore(threads)  # it serves those who wait in order of arrival
        self._checks: SingleFlight[tuple[str, bytes], bool] = SingleFlight()
        self._queues: dict[str, _Queue] = {}  # by secret hash
        self._verified: OrderedDict[str, bytes] = OrderedDict()  # secret hash -> digest of its token
        self._capacity = capacity

    async def hash(self, secret: bytes) -> str:
        """Return the hash of a secret, to be stored."""
        return await self._in_thread(self._hasher.hash, secret)

    async def verifies(self, token: Token, digest: bytes, secret_hash: str) -> bool:
        """Return whether a hash is that of the token's secret.

        Args:
            token: The token.
            digest: The token's digest by the fingerprint.
            secret_hash: The stored hash.

        Raises:
            BusyError: Too many tokens wait to be verified with this hash.
        """
        known = self._verified.get(secret_hash)
        if known is None:
            return await self._checks.get((secret_hash, digest), lambda: self._verify(token, digest, secret_hash))
        self._verified.move_to_end(secret_hash)
        return hmac.compare_digest(known, digest)

    async def _verify(self, token: Token, digest: bytes, secret_hash: str) -> bool:
        async with self._turn(secret_hash):
            known = self._verified.get(secret_hash)
            if known is not None:  # the right token was verified while this one waited
                return hmac.compare_digest(known, digest)
            if not await self._in_thread(self._hasher.verifies, token, secret_hash):
                return False
            self._verified[secret_hash] = digest
            if len(self._verified) > self._capacity:
                self._verified.popitem(last=False)
            return True

    def digest(self, token: Token) -> bytes:
        """Return the digest by which this process recognises a token."""
        return self._fingerprint.digest(token.reveal())

    async def renewed(self, token: Token, secret_hash: str) -> str | None:
        """Return a hash with the current parameters for a verified token; None if its hash has them already."""
        return await self.hash(token.secret) if self._hasher.is_outdated(secret_hash) else None

    def close(self) -> None:
        """Stop the threads."""
        self._executor.shutdown(cancel_futures=True)

    @asynccontextmanager
    async def _turn(self, secret_hash: str) -> AsyncIterator[None]:
        queue = self._queues.setdefault(secret_hash, _Queue())
        if queue.length >= MAX_QUEUE:
            raise BusyError
        queue.length += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[secret_hash]

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        async with self._threads:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


class _Queue:
    """The tokens that wait to be verified with one hash."""

    __slots__ = ("length", "lock")

    def __init__(self) -> None:
        self.length = 0
        self.lock = asyncio.Lock()


async def verified(verifier: Verifier, token: Token, digest: bytes, credential: Credential | None) -> Credential | None:
    """Return the credential if it is that of the token; None if there is none, or the type or the secret differs.

    The verifier compares only the secret, so the type has to be compared too.
    """
    if credential is None or credential.key.type is not token.type:
        return None
    return credential if await verifier.verifies(token, digest, credential.secret_hash) else None


async def verified_credential(database: Database, verifier: Verifier, token: Token) -> Credential | None:
    """Load and verify the key of a token; None if no key has this token."""
    async with database.connection() as connection:
        snapshot = await credentials.find_credentials(connection, [token.key_id])
    return await verified(verifier, token, verifier.digest(token), snapshot.credentials.get(token.key_id))
