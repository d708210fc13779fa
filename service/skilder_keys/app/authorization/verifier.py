"""Verify tokens: with argon2 the first time, in threads; later by their digest."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from skilder_keys.app.batching import reported
from skilder_keys.domain.errors import BusyError
from skilder_keys.storage import credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skilder_keys.app.authorization.proofs import Proofs
    from skilder_keys.domain.hashing import SecretHasher
    from skilder_keys.domain.keys import Credential, KeyFacts
    from skilder_keys.domain.token import Token
    from skilder_keys.storage.database import Database

    Verified = bool | Exception | asyncio.CancelledError

MAX_QUEUE = 1000
"""The most different tokens of one key that may wait to be verified."""
MAX_OUTDATED = 100
"""The most tokens whose hash has outdated parameters that are kept until they are taken."""

_BATCH = 16
_BATCH_SECONDS = 0.004
"""A thread that has verified tokens for this long reports them, and takes others afterwards."""


class Verifier:
    """Verifies tokens, and hashes the secrets of new ones.

    Whether a secret has a given hash never changes, so a verified token can be remembered without a time limit. This
    says nothing about whether its key may still be used. The digest of a token is remembered, never the token: only
    a few whose hash is outdated are kept, until their hash is renewed a moment later.

    The tokens for one hash are verified one after another, and the hashes take turns. So a flood of wrong secrets for
    one key occupies at most one thread, and a token of another key waits for two of them at most. A thread takes
    several tokens at once, of as many hashes, because the way to a thread and back costs about as much as a small hash.

    Attributes:
        outcomes: How many tokens were found `right` or `wrong` by argon2, and for how many it `failed`.
    """

    def __init__(self, hasher: SecretHasher, proofs: Proofs, *, threads: int = 2) -> None:
        """Make a verifier.

        Args:
            hasher: Hashes secrets and verifies them.
            proofs: The tokens that were verified, also by other workers.
            threads: The most threads for argon2.
        """
        self._hasher = hasher
        self._proofs = proofs
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._free = threads
        self._waiting: dict[str, dict[bytes, _Proof]] = {}  # by secret hash and digest, in order of arrival
        self._turns: deque[str] = deque()  # the hashes of which tokens wait, and none is being verified
        self._outdated: dict[str, Token] = {}
        self._closed = False
        self.outcomes = {"right": 0, "wrong": 0, "failed": 0}

    async def hash(self, secret: bytes) -> str:
        """Return the hash of a secret, to be stored."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._hasher.hash, secret)

    async def verifies(self, token: Token, digest: bytes, secret_hash: str) -> bool:
        """Return what `verify` reports, or raise it."""
        return await reported(partial(self.verify, token, digest, secret_hash))

    def verify(self, token: Token, digest: bytes, secret_hash: str, report: Callable[[Verified], None]) -> None:
        """Report whether a hash is that of the token's secret: now, or when argon2 has verified it.

        Args:
            token: The token.
            digest: The token's digest by the fingerprint.
            secret_hash: The stored hash.
            report: Gets the result, or the error: BusyError if too many tokens wait to be verified with this hash,
                CancelledError if the verifier is closed. It raises nothing.
        """
        known = self._proofs.get(token.key_id, token.type, secret_hash)
        if known is not None:
            right = hmac.compare_digest(known, digest)
            if right:
                self._note_if_outdated(token, secret_hash)
            report(right)
        else:
            self._wait(token, digest, secret_hash, report)

    @property
    def waiting(self) -> int:
        """The number of tokens that wait to be verified, or are being verified."""
        return sum(map(len, self._waiting.values()))

    def digest(self, token: Token) -> bytes:
        """Return the digest by which this process recognises a token."""
        return self._proofs.fingerprint.digest(token.reveal())

    def known(self, key: KeyFacts, secret_hash: str) -> bytes | None:
        """Return the digest of the token of a key, if it was verified with this hash before.

        Return None for an outdated hash: only the token can renew it.
        """
        return None if self._hasher.is_outdated(secret_hash) else self._proofs.get(key.id, key.type, secret_hash)

    def remember(self, token: Token, digest: bytes, secret_hash: str) -> None:
        """Remember that a token, which has this digest, has the secret of this hash."""
        self._proofs.add(token.key_id, token.type, secret_hash, digest)

    def take_outdated(self) -> dict[str, Token]:
        """Return verified tokens by their hash, which has other parameters than new ones, and forget them here."""
        outdated, self._outdated = self._outdated, {}
        return outdated

    def close(self) -> None:
        """Stop the threads. The calls that wait are cancelled."""
        self._closed = True
        for line in self._waiting.values():
            for proof in line.values():
                proof.report(asyncio.CancelledError())
        self._executor.shutdown(cancel_futures=True)

    def _wait(self, token: Token, digest: bytes, secret_hash: str, report: Callable[[Verified], None]) -> None:
        if self._closed:
            report(RuntimeError("the verifier is closed"))
            return
        line = self._waiting.get(secret_hash)
        if line is None:
            line = self._waiting[secret_hash] = {}
            if self._free and not self._turns:
                # Not at once, so that a thread gets all tokens that arrive together.
                asyncio.get_running_loop().call_soon(self._start)
            self._turns.append(secret_hash)
        proof = line.get(digest)
        if proof is None:
            if len(line) >= MAX_QUEUE:
                report(BusyError())
                return
            proof = line[digest] = _Proof(token, digest, secret_hash)
        proof.reports.append(report)

    def _start(self) -> None:
        """Give the free threads the tokens that wait, at most one of each hash.

        A second thread gets only what is too much for one: each costs a hand-over, and threads wait for each other.
        """
        while self._free and self._turns and not self._closed:
            share = min(_BATCH, len(self._turns))
            proofs = [next(iter(self._waiting[self._turns.popleft()].values())) for _ in range(share)]
            self._free -= 1
            loop = asyncio.get_running_loop()
            loop.run_in_executor(self._executor, self._verify, proofs).add_done_callback(partial(self._finish, proofs))

    def _verify(self, proofs: Sequence[_Proof]) -> list[bool | Exception]:
        """Return the results of the first tokens, as many as there is time for. This runs in a thread."""
        end = time.monotonic() + _BATCH_SECONDS
        results: list[bool | Exception] = []
        for proof in proofs:
            try:
                results.append(self._hasher.verifies(proof.token, proof.secret_hash))
            except Exception as error:  # noqa: BLE001 - `verifies` raises it
                results.append(error)
            if time.monotonic() >= end:
                break
        return results

    def _finish(self, proofs: Sequence[_Proof], done: asyncio.Future[list[bool | Exception]]) -> None:
        if self._closed:
            return
        self._free += 1
        results = done.result()
        # What there was no time for is next.
        self._turns.extendleft(proof.secret_hash for proof in reversed(proofs[len(results) :]))
        for proof, result in zip(proofs, results, strict=False):
            self._settle(proof, result)
        self._start()

    def _note_if_outdated(self, token: Token, secret_hash: str) -> None:
        if len(self._outdated) < MAX_OUTDATED and self._hasher.is_outdated(secret_hash):
            self._outdated[secret_hash] = token

    def _settle(self, proof: _Proof, result: bool | Exception) -> None:  # noqa: FBT001 - a result, not a switch
        line = self._waiting[proof.secret_hash]
        del line[proof.digest]
        ended = [proof]
        if isinstance(result, Exception):
            self.outcomes["failed"] += 1
        else:
            self.outcomes["right" if result else "wrong"] += 1
        if result is True:
            self.remember(proof.token, proof.digest, proof.secret_hash)
            self._note_if_outdated(proof.token, proof.secret_hash)
            ended += line.values()  # a secret has one token, and these have other digests
            line.clear()
        if line:
            self._turns.append(proof.secret_hash)
        else:
            del self._waiting[proof.secret_hash]
        for each in ended:
            each.report(result if each is proof else False)


class _Proof:
    """A token that is to be verified with a hash, for all calls that wait for the result."""

    __slots__ = ("digest", "reports", "secret_hash", "token")

    def __init__(self, token: Token, digest: bytes, secret_hash: str) -> None:
        self.token = token
        self.digest = digest
        self.secret_hash = secret_hash
        self.reports: list[Callable[[Verified], None]] = []

    def report(self, result: Verified) -> None:
        """Report the result to all calls."""
        for report in self.reports:
            report(result)


def same_type(token: Token, credential: Credential) -> bool:
    """Return whether a token names the type of a key: the verifier compares only the secret, so this is needed too."""
    return credential.key.type is token.type


async def verified_credential(database: Database, verifier: Verifier, token: Token) -> Credential | None:
    """Load and verify the key of a token; None if no key has this token."""
    async with database.connection() as connection:
        snapshot = await credentials.find_credentials(connection, [token.key_id])
    credential = snapshot.credentials.get(token.key_id)
    if credential is None or not same_type(token, credential):
        return None
    return credential if await verifier.verifies(token, verifier.digest(token), credential.secret_hash) else None
