"""Authorize: whether a token is good, and which tools it may use."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from service.app import encoding
from service.app.batching import Batches
from service.app.cache import KnownKey
from service.app.proof import proven
from service.app.questions import Answer, Question
from service.domain.access import Caller, CallerRole
from service.domain.errors import ForeignWorkspaceError, UnavailableError
from service.domain.fields import Violations
from service.domain.token import MalformedTokenError, Token
from service.domain.verdict import DenialReason, Denied, standing
from service.storage import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.app.cache import KeyCache, Load
    from service.app.fence import Lease
    from service.app.proof import Prover
    from service.app.tool_sets import SharedToolSet, ToolSets
    from service.app.usage import Usage
    from service.domain.hashing import Recogniser
    from service.domain.ids import KeyId, WorkspaceId
    from service.domain.keys import Credential, Key
    from service.storage.database import Database

MAX_BATCH = 1000
"""The most questions in a batch; `rpc.limits` holds requests to it."""
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
        recogniser: Recogniser,
        prover: Prover,
        usage: Usage,
    ) -> None:
        self._database = database
        self._lease = lease
        self._cache = cache
        self._tool_sets = tool_sets
        self._recogniser = recogniser
        self._prover = prover
        self._usage = usage
        self.denials: Counter[DenialReason] = Counter()
        self._credentials = Batches(self._find_credentials)
        self._first_uses = Batches(self._claim_first_uses)

    def grant(self, question: Question, workspace_id: WorkspaceId | None = None) -> bytes | None:
        """Answers a grant from memory, as an AuthorizeResponse; None, and nothing was done, where `authorize` has to.

        That is so for every question that is not granted, or not known to be a good one.
        """
        known = self._cache.peek(question.token)
        if known is None or known.denied is not None or workspace_id not in (None, known.scope.workspace_id):
            return None
        reach = _reach(known.tool_set, question)
        if reach is None or question.tool_set_version not in ("", known.tool_set.version):
            return None
        self._cache.hits += 1
        self._usage.note(known.key_id)
        return encoding.granted(known.head, reach)

    async def authorize(self, question: Question, workspace_id: WorkspaceId | None = None) -> Answer:
        """Decides about a token. With a workspace, only keys of that one may be asked about.

        Raises:
            InvalidRequestError: A field of the question is over its bound.
            ForeignWorkspaceError: The key is of another workspace.
            UnavailableError: It cannot be decided now.
        """
        known = self._cache.find(question.token)
        if known is None or not _is_expected(known, question):
            violations = Violations()
            question.check(violations, "")
            violations.refuse()
        return self._answer(known or await self._read(question.token, workspace_id), question, workspace_id, None)

    async def authorize_all(
        self, questions: Sequence[Question], workspace_id: WorkspaceId | None = None
    ) -> tuple[list[Answer], bytes]:
        """Decides about many tokens; answers each verdict, in order, and a serialised BatchAuthorizeResponse of all.

        Raises as `authorize`: all are decided, or the call fails.
        """
        found = [self._cache.find(question.token) for question in questions]
        violations = Violations()
        for index, (known, question) in enumerate(zip(found, questions, strict=True)):
            if (known is None or not _is_expected(known, question)) and not violations.full:
                question.check(violations, f"requests[{index}].")
        violations.refuse()
        missing = [index for index, known in enumerate(found) if known is None]
        read = await self._read_all({index: questions[index].token for index in missing}, workspace_id)
        shared: dict[str, SharedToolSet] = {}
        answers = []
        size = shared_sets = 0
        for index, (known, question) in enumerate(zip(found, questions, strict=True)):
            if index and not index % _SLICE:
                await asyncio.sleep(0)
            answers.append(self._answer(known or read[index], question, workspace_id, shared))
            size += len(answers[-1].body)
            if len(shared) > shared_sets:  # this answer has brought one
                shared_sets = len(shared)
                size += len(next(reversed(shared.values())).field)
            if size > MAX_BATCH_BYTES:
                violations.add("requests", "would be answered with more than 32 MiB: ask about fewer tokens at once")
                violations.refuse()
        return answers, encoding.batch((each.body for each in answers), (each.field for each in shared.values()))

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

    def _answer(
        self,
        known: KnownKey | Denied,
        question: Question,
        workspace_id: WorkspaceId | None,
        shared: dict[str, SharedToolSet] | None,
    ) -> Answer:
        """Answers a question; in a batch, what is `shared` by answers is put there and named in them."""
        if isinstance(known, Denied):
            return self._denial(known)
        _require_workspace(known.scope.workspace_id, workspace_id)
        if known.denied is not None:
            return self._denial(Denied(known.denied, known.key_id))
        self._usage.note(known.key_id)
        tool_set = known.tool_set
        reach = _reach(tool_set, question)
        if reach is None:
            return self._denial(Denied(DenialReason.TOOL_NOT_ALLOWED, known.key_id))
        if shared is not None and reach is tool_set.field:
            shared[tool_set.version] = tool_set
            reach = tool_set.reference
        return Answer(known.key_id, None, encoding.granted(known.head, reach))

    def _denial(self, denied: Denied) -> Answer:
        self.denials[denied.reason] += 1
        return Answer(denied.key_id, denied.reason, encoding.denied(denied))

    async def _read(self, text: str, workspace_id: WorkspaceId | None) -> KnownKey | Denied:
        """Answers the key whose token this is, for a token that memory does not know."""
        try:
            token = Token.parse(text)
        except MalformedTokenError:
            return _MALFORMED
        digest = self._recogniser.digest(text)
        if self._cache.refuses(token.key_id, digest):
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
            credential = await proven(self._prover, token, digest, credential)
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
        denied = standing(credential)
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
        renewed = await self._prover.renewed(token, credential.secret_hash)
        if renewed is not None:
            # The old hash is as good as ever, so an outage here does not fail the call.
            with suppress(UnavailableError):
                async with self._database.connection() as connection:
                    await keys.renew_hash(
                        connection, credential.key.id, old_hash=credential.secret_hash, new_hash=renewed
                    )

    async def _find_credentials(self, key_ids: list[KeyId]) -> dict[KeyId, Credential]:
        for _ in range(_READS):
            lease = self._lease
            known, server = lease.revision, lease.server
            async with self._database.connection() as connection:
                found = await keys.find_credentials(connection, key_ids)
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
            return await keys.claim_first_uses(connection, secret_hashes)


def _reach(tool_set: SharedToolSet, question: Question) -> bytes | None:
    """Answers the end of a grant; None where the tool that is asked about is not reached."""
    if question.tool_id:
        return tool_set.grant(question.tool_id)
    return encoding.UNCHANGED if question.tool_set_version == tool_set.version else tool_set.field


def _is_expected(known: KnownKey, question: Question) -> bool:
    """Tells whether a question asks nothing that its fields would have to be checked for."""
    return not question.tool_id and question.tool_set_version in ("", known.tool_set.version)


def _require_workspace(workspace_id: WorkspaceId, asked: WorkspaceId | None) -> None:
    if asked not in (None, workspace_id):
        raise ForeignWorkspaceError


def _runtime(key: Key) -> Caller | None:
    if key.runtime_id is None:
        return None
    return Caller(f"runtime:{key.runtime_id}", CallerRole.RUNTIME, key.workspace_id)
