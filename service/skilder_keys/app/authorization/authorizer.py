"""Authorize: whether a token is good, and which tools it may use."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.cache import KnownKey
from skilder_keys.app.authorization.query import AuthorizeQuery, Decision
from skilder_keys.app.authorization.verifier import verified
from skilder_keys.app.batching import Batcher
from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.domain.denial import DenialReason, Denied, check_status
from skilder_keys.domain.errors import ForeignWorkspaceError, UnavailableError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.token import MalformedTokenError, Token
from skilder_keys.storage import credentials, key_uses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skilder_keys.app.authorization.cache import KeyCache, Load
    from skilder_keys.app.authorization.tool_sets import SharedToolSet, ToolSets
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.domain.hashing import TokenFingerprint
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.domain.keys import Credential, Key
    from skilder_keys.storage.database import Database

MAX_BATCH = 1000
"""The most queries in a batch; `rpc.limits` holds requests to it."""
MAX_BATCH_BYTES = 32 * 2**20
"""The most bytes in the answer to a batch."""

_ATTEMPTS = 5
_READS = 2
_SLICE = 50
"""After so many tokens of a batch, other calls have their turn."""
_MALFORMED = Denied(DenialReason.MALFORMED)
_UNKNOWN = Denied(DenialReason.UNKNOWN)


class Authorizer:
    """Decides about tokens: from memory where the fence vouches for that, else by the database.

    Attributes:
        denials: How many tokens were denied, by reason.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        cache: KeyCache,
        tool_sets: ToolSets,
        fingerprint: TokenFingerprint,
        verifier: Verifier,
        usage: Usage,
    ) -> None:
        self._database = database
        self._lease = lease
        self._cache = cache
        self._tool_sets = tool_sets
        self._fingerprint = fingerprint
        self._verifier = verifier
        self._usage = usage
        self.denials: Counter[DenialReason] = Counter()
        self._credentials = Batcher(self._find_credentials)
        self._first_uses = Batcher(self._claim_first_uses)

    def grant(self, query: AuthorizeQuery, workspace_id: WorkspaceId | None = None) -> bytes | None:
        """Answers a grant from memory, as an AuthorizeResponse; None, and nothing was done, where `authorize` has to.

        That is so for every query that is not granted, or not known to be a good one.
        """
        known = self._cache.peek(query.token)
        if known is None or known.denied is not None or workspace_id not in (None, known.scope.workspace_id):
            return None
        reach = _reach(known.tool_set, query)
        if reach is None or query.tool_set_version not in ("", known.tool_set.version):
            return None
        self._cache.hits += 1
        self._usage.note(known.key_id)
        return encoding.granted(known.head, reach)

    async def authorize(self, query: AuthorizeQuery, workspace_id: WorkspaceId | None = None) -> Decision:
        """Decides about a token. With a workspace, only keys of that one may be asked about.

        Raises:
            InvalidRequestError: A field of the query is over its bound.
            ForeignWorkspaceError: The key is of another workspace.
            UnavailableError: It cannot be decided now.
        """
        known = self._cache.find(query.token)
        if known is None or not _is_expected(known, query):
            violations = Violations()
            query.check(violations, "")
            violations.raise_if_any()
        return self._decide(known or await self._read(query.token, workspace_id), query, workspace_id, None)

    async def authorize_all(
        self, queries: Sequence[AuthorizeQuery], workspace_id: WorkspaceId | None = None
    ) -> tuple[list[Decision], bytes]:
        """Decide about many tokens; return the decisions, in order, and a serialised BatchAuthorizeResponse of all.

        Raises as `authorize`: all are decided, or the call fails.
        """
        found = [self._cache.find(query.token) for query in queries]
        violations = Violations()
        for index, (known, query) in enumerate(zip(found, queries, strict=True)):
            if (known is None or not _is_expected(known, query)) and not violations.full:
                query.check(violations, f"requests[{index}].")
        violations.raise_if_any()
        missing = [index for index, known in enumerate(found) if known is None]
        read = await self._read_all({index: queries[index].token for index in missing}, workspace_id)
        shared: dict[str, SharedToolSet] = {}
        decisions = []
        size = shared_sets = 0
        for index, (known, query) in enumerate(zip(found, queries, strict=True)):
            if index and not index % _SLICE:
                await asyncio.sleep(0)
            decisions.append(self._decide(known or read[index], query, workspace_id, shared))
            size += len(decisions[-1].body)
            if len(shared) > shared_sets:  # this answer has brought one
                shared_sets = len(shared)
                size += len(next(reversed(shared.values())).field)
            if size > MAX_BATCH_BYTES:
                violations.add("requests", "would be answered with more than 32 MiB: ask about fewer tokens at once")
                violations.raise_if_any()
        return decisions, encoding.batch((each.body for each in decisions), (each.field for each in shared.values()))

    async def identify_runtime(self, token: str) -> Caller | None:
        """Answers the runtime instance whose token this is, or None where it is not the token of a good runtime key.

        Raises:
            UnavailableError: It cannot be decided now.
        """
        known = self._cache.find(token) or await self._read(token, None)
        if isinstance(known, Denied) or known.runtime is None or known.denied is not None:
            return None
        self._usage.note(known.key_id)
        return known.runtime

    def _decide(
        self,
        known: KnownKey | Denied,
        query: AuthorizeQuery,
        workspace_id: WorkspaceId | None,
        shared: dict[str, SharedToolSet] | None,
    ) -> Decision:
        """Answers a query; in a batch, what is `shared` by decisions is put there and named in them."""
        if isinstance(known, Denied):
            return self._denial(known)
        _require_workspace(known.scope.workspace_id, workspace_id)
        if known.denied is not None:
            return self._denial(Denied(known.denied, known.key_id))
        self._usage.note(known.key_id)
        tool_set = known.tool_set
        reach = _reach(tool_set, query)
        if reach is None:
            return self._denial(Denied(DenialReason.TOOL_NOT_ALLOWED, known.key_id))
        if shared is not None and reach is tool_set.field:
            shared[tool_set.version] = tool_set
            reach = tool_set.reference
        return Decision(known.key_id, None, encoding.granted(known.head, reach))

    def _denial(self, denied: Denied) -> Decision:
        self.denials[denied.reason] += 1
        return Decision(denied.key_id, denied.reason, encoding.denied(denied))

    async def _read(self, text: str, workspace_id: WorkspaceId | None) -> KnownKey | Denied:
        """Answers the key whose token this is, for a token that memory does not know."""
        try:
            token = Token.parse(text)
        except MalformedTokenError:
            return _MALFORMED
        digest = self._fingerprint.digest(text)
        if self._cache.rejects(token.key_id, digest):
            return _UNKNOWN
        known = await self._cache.load(
            (digest, workspace_id), token.key_id, lambda load: self._load(load, token, digest, workspace_id)
        )
        return _UNKNOWN if known is None else known

    async def _read_all(
        self, tokens: Mapping[int, str], workspace_id: WorkspaceId | None
    ) -> dict[int, KnownKey | Denied]:
        """Return what `_read` does for many tokens, each by its number."""
        reading = []
        for count, text in enumerate(tokens.values(), 1):
            reading.append(asyncio.create_task(self._read(text, workspace_id)))
            if not count % _SLICE:
                await asyncio.sleep(0)
        read: dict[int, KnownKey | Denied] = {}
        for index, result in zip(tokens, await asyncio.gather(*reading, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                raise result
            read[index] = result
        return read

    async def _load(self, load: Load, token: Token, digest: bytes, workspace_id: WorkspaceId | None) -> KnownKey | None:
        for _ in range(_ATTEMPTS):
            credential = await self._credentials.get(token.key_id)
            if credential is not None:
                load.workspace_id = credential.key.workspace_id
            credential = await verified(self._verifier, token, digest, credential)
            if credential is None:
                return None
            _require_workspace(credential.key.workspace_id, workspace_id)  # or it would count as a use of the key
            known = await self._completed(credential, token, digest)
            if known is not None:
                return known
        raise UnavailableError("The key or its workspace changed again and again while it was read: try again.")

    async def _completed(self, credential: Credential, token: Token, digest: bytes) -> KnownKey | None:
        """Answers None where something changed between two reads, which together would be a state that never was."""
        key, tool_set = credential.key, self._tool_sets.nothing
        denied = check_status(credential)
        if denied is None:
            found = await self._tool_sets.get(key.workspace_id, credential.workspace_version, credential.reach)
            if found is None or not await self._note_first_use(credential):
                return None
            tool_set = found
            await self._renew_hash(credential, token)
        return KnownKey(
            key_id=key.id,
            digest=digest,
            scope=self._cache.scope(key.workspace_id),
            denied=denied,
            head=encoding.granted_key(key),
            tool_set=tool_set,
            runtime=_runtime(key),
        )

    async def _note_first_use(self, credential: Credential) -> bool:
        key = credential.key
        if key.last_used_at is not None:
            return True
        noted = bool(await self._first_uses.get((key.id, credential.secret_hash)))
        if noted:
            self._usage.written(key.id)
        return noted

    async def _renew_hash(self, credential: Credential, token: Token) -> None:
        renewed = await self._verifier.renewed(token, credential.secret_hash)
        if renewed is not None:
            # The old hash is as good as ever, so an outage here does not fail the call.
            with suppress(UnavailableError):
                async with self._database.connection() as connection:
                    await credentials.renew_hash(
                        connection, credential.key.id, old_hash=credential.secret_hash, new_hash=renewed
                    )

    async def _find_credentials(self, key_ids: list[KeyId]) -> dict[KeyId, Credential]:
        for _ in range(_READS):
            lease = self._lease
            known, server = lease.revision, lease.server
            async with self._database.connection() as connection:
                found = await credentials.find_credentials(connection, key_ids)
            if server in ("", found.server) and found.revision.epoch >= known.epoch:
                return found.credentials
            # Another server than the fence's, such as a primary that is none any more, or a database that has gone
            # back. Which of the two is right is not known here: so nothing is kept of either, and both are asked anew.
            leased = lease.valid()
            lease.doubt()
            self._cache.drop_all()
            believed = not leased and found.revision.epoch >= known.epoch
            if believed:
                # The fence has not been asked yet, and nothing is answered from memory: no newer state is known.
                lease.revision, lease.server = found.revision, found.server
            await self._database.expire()
            if believed:
                return found.credentials
        raise UnavailableError("The database that was asked lacks changes that another one has: try again.")

    async def _claim_first_uses(self, secret_hashes: list[tuple[KeyId, str]]) -> dict[tuple[KeyId, str], bool]:
        async with self._database.connection() as connection:
            return await key_uses.claim_first_uses(connection, secret_hashes)


def _reach(tool_set: SharedToolSet, query: AuthorizeQuery) -> bytes | None:
    """Answers the end of a grant; None where the tool that is asked about is not reached."""
    if query.tool_id:
        return tool_set.grant(query.tool_id)
    return encoding.UNCHANGED if query.tool_set_version == tool_set.version else tool_set.field


def _is_expected(known: KnownKey, query: AuthorizeQuery) -> bool:
    """Tells whether a query asks nothing that its fields would have to be checked for."""
    return not query.tool_id and query.tool_set_version in ("", known.tool_set.version)


def _require_workspace(workspace_id: WorkspaceId, asked: WorkspaceId | None) -> None:
    if asked not in (None, workspace_id):
        raise ForeignWorkspaceError


def _runtime(key: Key) -> Caller | None:
    if key.runtime_id is None:
        return None
    return Caller(f"runtime:{key.runtime_id}", CallerRole.RUNTIME, key.workspace_id)
