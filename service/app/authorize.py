"""Authorize: whether a token is good, and which tools it may use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.app import encoding
from service.app.proof import proven_credential
from service.domain.access import Caller, CallerRole
from service.domain.errors import ForeignWorkspaceError, UnavailableError
from service.domain.fields import Violations
from service.domain.ids import ToolId
from service.domain.permissions import NOTHING, ToolSet, tool_set
from service.domain.token import KeyType, MalformedTokenError, Token
from service.domain.verdict import DenialReason, Denied, Granted, ToolGrant, Verdict, standing
from service.storage import catalogue, keys

if TYPE_CHECKING:
    from service.app.proof import Prover
    from service.app.usage import Usage
    from service.domain.ids import WorkspaceId
    from service.domain.keys import Credential, Key
    from service.storage.database import Database

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a token.

    Attributes:
        tool_id: Ask about this tool only; empty for the whole tool set.
        tool_set_version: The version the asker holds; empty for none.
        workspace_id: The one workspace the asker may ask about; None for any.
    """

    tool_id: str = ""
    tool_set_version: str = ""
    workspace_id: WorkspaceId | None = None

    def check(self) -> None:
        """Raises InvalidRequestError where a field is over its bound. The token is not a field: it gets a verdict."""
        violations = Violations()
        violations.identifier("tool_id", self.tool_id, required=False)
        violations.identifier("tool_set_version", self.tool_set_version, required=False)
        violations.refuse()


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, and the same as a serialised AuthorizeResponse."""

    verdict: Verdict
    body: bytes


class Authorizer:
    """Decides about tokens. Every decision reads Postgres."""

    def __init__(self, database: Database, prover: Prover, usage: Usage) -> None:
        self._database = database
        self._prover = prover
        self._usage = usage

    async def authorize(self, token: str, question: Question) -> Answer:
        """Decides about a token, as its holder presented it.

        Raises:
            InvalidRequestError: A field of the question is over its bound.
            ForeignWorkspaceError: The key is of another workspace than the asker may ask about.
            UnavailableError: It cannot be decided now.
        """
        question.check()
        parsed = _parsed(token)
        if parsed is None:
            return _denial(Denied(DenialReason.MALFORMED))
        for _ in range(_ATTEMPTS):
            answer = await self._decide(parsed, question)
            if answer is not None:
                return answer
        raise UnavailableError("The key or its workspace changed again and again while it was read: try again.")

    async def identify_runtime(self, token: str) -> Caller | None:
        """Answers the runtime instance whose token this is, or None where it is not the token of a good runtime key.

        Raises:
            UnavailableError: It cannot be decided now.
        """
        parsed = _parsed(token)
        if parsed is None or parsed.type is not KeyType.RUNTIME:
            return None
        verdict = (await self.authorize(token, Question())).verdict
        if isinstance(verdict, Denied) or verdict.key.runtime_id is None:
            return None
        return Caller(f"runtime:{verdict.key.runtime_id}", CallerRole.RUNTIME, verdict.key.workspace_id)

    async def _decide(self, token: Token, question: Question) -> Answer | None:
        """Answers None where something changed between two reads, which together would be a state that never was."""
        credential = await proven_credential(self._database, self._prover, token)
        if credential is None:
            return _denial(Denied(DenialReason.UNKNOWN))
        key = credential.key
        if question.workspace_id not in (None, key.workspace_id):
            raise ForeignWorkspaceError
        if (reason := standing(credential)) is not None:
            return _denial(Denied(reason, key.id))
        reached = await self._reached(credential)
        if reached is None or not await self._note_use(credential, token):
            return None
        return _answer(key, reached, question)

    async def _reached(self, credential: Credential) -> ToolSet | None:
        """Answers what the key reaches; None where its workspace changed since the credential was read."""
        if credential.reach == NOTHING:
            return ToolSet((), ())
        async with self._database.connection() as connection:
            version, found = await catalogue.load_catalogue(connection, credential.key.workspace_id, texts=False)
        return tool_set(found, credential.reach) if version == credential.workspace_version else None

    async def _note_use(self, credential: Credential, token: Token) -> bool:
        if credential.key.last_used_at is not None:
            self._usage.note(credential.key.id)
        else:
            async with self._database.connection() as connection:
                if not await keys.claim_first_use(connection, credential.key.id, credential.secret_hash):
                    return False
        await self._renew_hash(credential, token)
        return True

    async def _renew_hash(self, credential: Credential, token: Token) -> None:
        renewed = await self._prover.renewed(token, credential.secret_hash)
        if renewed is not None:
            # The old hash is as good as ever, so an outage here does not fail the call.
            with suppress(UnavailableError):
                async with self._database.connection() as connection:
                    await keys.replace_secret(
                        connection, credential.key.id, old_hash=credential.secret_hash, new_hash=renewed
                    )


def _parsed(token: str) -> Token | None:
    try:
        return Token.parse(token)
    except MalformedTokenError:
        return None


def _answer(key: Key, reached: ToolSet, question: Question) -> Answer:
    if question.tool_id:
        tool = reached.find(ToolId(question.tool_id))
        if tool is None:
            return _denial(Denied(DenialReason.TOOL_NOT_ALLOWED, key.id))
        return Answer(Granted(key), encoding.granted_tool(key, ToolGrant(tool, reached.paths_to(tool.id))))
    encoded = encoding.tool_set(reached)
    if question.tool_set_version == encoded.version:
        return Answer(Granted(key), encoding.granted_unchanged(key))
    return Answer(Granted(key), encoding.granted_tool_set(key, encoded))


def _denial(denied: Denied) -> Answer:
    return Answer(denied, encoding.denied(denied))
