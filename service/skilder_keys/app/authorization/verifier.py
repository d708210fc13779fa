"""Verifying tokens: argon2 once, in threads, then recognition."""

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
"""The most different tokens of one key that may wait for their check."""


class Verifier:
    """Tells whether tokens are right, and hashes the secrets of new ones.

    That a secret has a given hash is true for ever, so the check may be remembered for ever: it says nothing of whether
    the key is still good. What is remembered of a token is a digest under a random key of this process.

    Proofs against one hash are made one after another, and the threads go to the hashes in turn. So a flood of wrong
    secrets for one key keeps one thread busy at most, and makes the holders of other keys wait for one check of it.
    """

    def __init__(
        self, hasher: SecretHasher, fingerprint: TokenFingerprint, *, threads: int = 2, capacity: int = 100_000
    ) -> None:
        """Takes the number of threads that argon2 may keep busy, and of checks to remember."""
        self._hasher = hasher
        self._fingerprint = fingerprint
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._threads = asyncio.Semaphore(threads)  # whose waiters are served in order of their coming
        self._checks: SingleFlight[tuple[str, bytes], bool] = SingleFlight()
        self._queues: dict[str, _Queue] = {}  # by secret hash
        self._verified: OrderedDict[str, bytes] = OrderedDict()  # secret hash -> digest of its token
        self._capacity = capacity

    async def hash(self, secret: bytes) -> str:
        """Return the hash to keep of a token's secret."""
        return await self._in_thread(self._hasher.hash, secret)

    async def verifies(self, token: Token, digest: bytes, secret_hash: str) -> bool:
        """Tells whether the token's secret is the hashed one.

        Args:
            token: The token.
            digest: Its digest by the fingerprint.
            secret_hash: The hash on record.

        Raises:
            BusyError: Too many tokens wait for their check against this hash.
        """
        known = self._verified.get(secret_hash)
        if known is None:
            return await self._checks.get((secret_hash, digest), lambda: self._verify(token, digest, secret_hash))
        self._verified.move_to_end(secret_hash)
        return hmac.compare_digest(known, digest)

    async def _verify(self, token: Token, digest: bytes, secret_hash: str) -> bool:
        async with self._turn(secret_hash):
            known = self._verified.get(secret_hash)
            if known is not None:  # whoever had the turn before has verified the one right token
                return hmac.compare_digest(known, digest)
            if not await self._in_thread(self._hasher.verifies, token, secret_hash):
                return False
            self._verified[secret_hash] = digest
            if len(self._verified) > self._capacity:
                self._verified.popitem(last=False)
            return True

    def digest(self, token: Token) -> bytes:
        """Answers the digest by which this process knows a token again."""
        return self._fingerprint.digest(token.reveal())

    async def renewed(self, token: Token, secret_hash: str) -> str | None:
        """Answers a hash with today's parameters for a verified token, or None where it has them already."""
        return await self.hash(token.secret) if self._hasher.is_outdated(secret_hash) else None

    def close(self) -> None:
        """Ends the threads."""
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
    """Those who wait for a check against one hash."""

    __slots__ = ("length", "lock")

    def __init__(self) -> None:
        self.length = 0
        self.lock = asyncio.Lock()


async def verified(verifier: Verifier, token: Token, digest: bytes, credential: Credential | None) -> Credential | None:
    """Answers the credential if it is the token's: None where there is none, or its type or its secret is another.

    The verifier looks at the secret alone, so the type must be compared before.
    """
    if credential is None or credential.key.type is not token.type:
        return None
    return credential if await verifier.verifies(token, digest, credential.secret_hash) else None


async def verified_credential(database: Database, verifier: Verifier, token: Token) -> Credential | None:
    """Reads the key that a token claims to be of; None where there is none, or the token is not that key's."""
    async with database.connection() as connection:
        found = await credentials.find_credentials(connection, [token.key_id])
    return await verified(verifier, token, verifier.digest(token), found.credentials.get(token.key_id))
