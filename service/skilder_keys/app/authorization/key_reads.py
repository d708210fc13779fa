"""Read keys from the database, many with one statement, and verify their tokens."""

from __future__ import annotations

import asyncio
import math
import random
from contextvars import copy_context
from functools import partial
from sys import intern
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.known_key import KnownKey, fresh_until
from skilder_keys.app.authorization.verifier import same_type
from skilder_keys.app.batching import Batches, reported
from skilder_keys.domain.access import RUNTIME_PREFIX, Caller, CallerLimits, CallerRole
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.key_policy import FRESH
from skilder_keys.domain.networks import Networks
from skilder_keys.storage import credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

    from skilder_keys.app.authorization.key_cache import Ended, KeyCache
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.app.authorization.verifier import Verified, Verifier
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.reads import FencedReads
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.keys import Credential, KeyFacts
    from skilder_keys.domain.token import Token

LINGER_SECONDS = 0.004
"""So many calls share a statement and a thread that it pays, and nobody waits long for it."""
_IN_USE_SECONDS = 86_400.0
"""A key whose last use is longer ago is not read before somebody asks about it."""


class _Read(NamedTuple):
    """A token whose key is to be read.

    Attributes:
        token: The token.
        digest: The token's digest by the fingerprint.
        end: Gets the key, None if no key has this token, or the error.
        context: That of the call that began it, to whose trace the verification belongs.
    """

    token: Token
    digest: bytes
    end: Callable[[Ended], None]
    context: Context


class _Found(NamedTuple):
    """What a statement found about a key, and a time before it was sent."""

    epoch: int
    credential: Credential
    asked_at: float


class KeyReads:
    """Reads keys, each with its token verified.

    A read has neither a task nor a future of its own, because thousands may come at once: a batch has a task until its
    statement is executed, and then the verifier reports each token.
    """

    def __init__(self, reads: FencedReads, lease: Lease, keys: KeyCache, verifier: Verifier, usage: Usage) -> None:
        self._reads = reads
        self._lease = lease
        self._keys = keys
        self._verifier = verifier
        self._usage = usage
        self._batches = Batches(self._read, linger=LINGER_SECONDS)

    def begin(self, token: Token, digest: bytes, end: Callable[[Ended], None]) -> None:
        """Begin to read the key of a token with the next statement.

        Args:
            token: The token.
            digest: The token's digest by the fingerprint.
            end: Gets the key, None if no key has this token, or the error. It raises nothing.
        """
        self._batches.add(_Read(token, digest, end, copy_context()))

    async def read(self, token: Token, digest: bytes) -> KnownKey | None:
        """Return the key of a token; None if no key has this token.

        Raises:
            UnavailableError: It cannot be read now.
            BusyError: Too many tokens of this key wait to be verified.
        """
        return await reported(partial(self.begin, token, digest))

    async def read_ahead(self, key_ids: list[KeyId]) -> list[KnownKey]:
        """Return those of some keys whose token a worker has verified, and that are in use.

        Raises:
            UnavailableError: They cannot be read now.
        """
        found = await self._find(key_ids) if key_ids else {}
        keys = []
        for key_id in key_ids:  # not those of `found`, whose class is the driver's
            one = found.get(key_id)
            if one is None:
                continue
            digest = self._verifier.known(one.credential.key, one.credential.secret_hash)
            seconds = one.credential.unused_seconds
            if digest is not None and seconds is not None and seconds < _IN_USE_SECONDS:
                keys.append(self._known(key_id, digest, one))
        return keys

    async def _read(self, reads: list[_Read]) -> None:
        try:
            found = await self._find({read.token.key_id: None for read in reads})
        except (Exception, asyncio.CancelledError) as error:
            for read in reads:
                read.end(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for read in reads:
            one = found.get(read.token.key_id)
            if one is None or not same_type(read.token, one.credential):
                read.end(None)
            else:
                report = partial(self._verified, read, one)
                verify, secret_hash = self._verifier.verify, one.credential.secret_hash
                read.context.run(verify, read.token, read.digest, secret_hash, report)

    def _verified(self, read: _Read, found: _Found, result: Verified) -> None:
        end: Ended
        if result is True:
            try:
                end = self._known(read.token.key_id, read.digest, found)
            except Exception as error:  # noqa: BLE001 - the calls raise it
                end = error
        else:
            end = None if result is False else result
        read.end(end)

    async def _find(self, key_ids: Iterable[KeyId]) -> dict[KeyId, _Found]:
        asked_at = self._lease.now()
        read = await self._reads.read(lambda connection: credentials.find_credentials(connection, key_ids))
        epoch = read.revision.epoch
        return {key_id: _Found(epoch, each, asked_at) for key_id, each in read.credentials.items()}

    def _known(self, key_id: KeyId, digest: bytes, found: _Found) -> KnownKey:
        credential, asked_at = found.credential, found.asked_at
        key = credential.key
        reach = key.reach
        if credential.unused_seconds is not None:
            self._usage.read(key_id, credential.unused_seconds)
        return KnownKey(
            key_id,  # not `key.id`, whose class is the driver's: it makes a new number each time it is asked
            digest,
            self._keys.scope(WorkspaceId(intern(key.workspace_id))),
            key.user_id,
            reach.hat_ids,
            reach.team_ids,
            networks=None if key.networks is None else Networks(key.networks),
            denial=credential.denial,
            fresh_until=min(fresh_until(asked_at, credential.seconds_left), _recorded_until(asked_at, credential)),
            head=encoding.granted_key(key),
            runtime=_runtime(key),
            claim=credential.secret_hash if credential.must_be_recorded else None,
            version=credential.workspace_version,
            label=found.epoch,
        )


def _recorded_until(asked_at: float, credential: Credential) -> float:
    """Return until when a key can be used without another look at its recorded last use.

    Not all at the same time, as keys are read at the same time after a restart.
    """
    if not credential.revoked_if_unused:
        return math.inf
    return asked_at + FRESH.total_seconds() * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _runtime(key: KeyFacts) -> Caller | None:
    if key.runtime_id is None:
        return None
    limits = CallerLimits(frozenset({key.workspace_id}))
    return Caller(f"{RUNTIME_PREFIX}{key.runtime_id}", CallerRole.RUNTIME, limits, key.id)
