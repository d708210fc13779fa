"""Proving tokens: argon2 once, in threads, then recognition."""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from service.domain.hashing import Recogniser
from service.storage import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.domain.hashing import SecretHasher
    from service.domain.keys import Credential
    from service.domain.token import Token
    from service.storage.database import Database

Result = TypeVar("Result")


class Prover:
    """Tells whether tokens are right, and hashes the secrets of new ones.

    That a secret has a given hash is true for ever, so the proof may be remembered for ever: it says nothing of whether
    the key is still good. What is remembered of a token is a digest under a random key of this process.
    """

    def __init__(self, hasher: SecretHasher, *, threads: int = 2, capacity: int = 100_000) -> None:
        """Takes the number of threads that argon2 may keep busy, and of proofs to remember."""
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._recogniser = Recogniser()
        self._proven: OrderedDict[str, bytes] = OrderedDict()  # secret hash -> digest of its token
        self._capacity = capacity

    async def hash(self, token: Token) -> str:
        """Answers the hash to keep of a token's secret."""
        return await self._in_thread(self._hasher.hash, token)

    async def proves(self, token: Token, secret_hash: str) -> bool:
        """Tells whether the token's secret is the hashed one."""
        digest = self._recogniser.digest(token)
        known = self._proven.get(secret_hash)
        if known is not None:
            self._proven.move_to_end(secret_hash)
            return hmac.compare_digest(known, digest)
        if not await self._in_thread(self._hasher.proves, token, secret_hash):
            return False
        self._proven[secret_hash] = digest
        if len(self._proven) > self._capacity:
            self._proven.popitem(last=False)
        return True

    async def renewed(self, token: Token, secret_hash: str) -> str | None:
        """Answers a hash with today's parameters for a proven token, or None where it has them already."""
        return await self.hash(token) if self._hasher.is_outdated(secret_hash) else None

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(cancel_futures=True)

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


async def proven_credential(database: Database, prover: Prover, token: Token) -> Credential | None:
    """Reads the key a token claims to be of; None where there is none, or the type or the secret is not that key's.

    The prover looks at the secret alone, so the type must be compared before.
    """
    async with database.connection() as connection:
        credential = await keys.find_credential(connection, token.key_id)
    if credential is None or credential.key.type is not token.type:
        return None
    return credential if await prover.proves(token, credential.secret_hash) else None
