"""Authorize: whether a token is valid, and which tools it may use."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.key_loader import require_workspace
from skilder_keys.app.authorization.query import AuthorizeQuery, Decision
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.fields import Violations

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skilder_keys.app.authorization.cache import KeyCache, KnownKey
    from skilder_keys.app.authorization.key_loader import KeyLoader
    from skilder_keys.app.authorization.tool_sets import SharedToolSet
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.ids import WorkspaceId

MAX_BATCH = 1000
"""The most queries in a batch. `rpc.limits` enforces it."""

_SLICE = 50
"""How many tokens of a batch are decided before other calls get their turn."""
_FRAME_BYTES = 4
"""The most bytes before each decision in the response to a batch: its tag and its length."""


class Authorizer:
    """Decides about tokens: from memory if the fence allows it, else from the database.

    Attributes:
        denials: The number of denied tokens, by reason.
    """

    def __init__(self, cache: KeyCache, loader: KeyLoader, usage: Usage) -> None:
        self._cache = cache
        self._loader = loader
        self._usage = usage
        self.denials: Counter[DenialReason] = Counter()

    def grant(self, query: AuthorizeQuery, workspace_id: WorkspaceId | None = None) -> bytes | None:
        """Return a grant from memory, as a serialised AuthorizeResponse.

        If memory cannot grant the query, do nothing and return None: then call `authorize`.
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
        """Decide about a token.

        Args:
            query: The token, and what is asked about it.
            workspace_id: The only workspace whose keys the caller may authorize; None for any.

        Raises:
            InvalidRequestError: A field of the query is out of bounds.
            ForeignWorkspaceError: The key belongs to another workspace.
            UnavailableError: The decision cannot be made now.
        """
        known = self._cache.find(query.token)
        if known is None or not _is_expected(known, query):
            violations = Violations()
            query.check(violations, "")
            violations.raise_if_any()
        return self._decide(known or await self._loader.load(query.token, workspace_id), query, workspace_id, None)

    async def read(
        self, query: AuthorizeQuery, workspace_id: WorkspaceId | None = None
    ) -> tuple[Decision, Iterable[bytes]]:
        """Decide about a token; return the decision, and the denial or all that the key reaches in parts.

        A part is a serialised ReadToolSetResponse. The arguments and errors are those of `authorize`.
        """
        violations = Violations()
        query.check(violations, "request.")
        if query.tool_id:
            violations.add("request.tool_id", "must not be set: a tool set is read as a whole")
        violations.raise_if_any()
        known = self._cache.find(query.token) or await self._loader.load(query.token, workspace_id)
        decision = self._decide(known, query, workspace_id, None)
        if isinstance(known, Denied) or decision.denied is not None:
            return decision, (decision.body,)
        return decision, known.tool_set.parts()

    async def authorize_all(
        self, queries: Sequence[AuthorizeQuery], workspace_id: WorkspaceId | None = None
    ) -> tuple[list[Decision], bytes]:
        """Decide about many tokens; return the decisions, in order, and a serialised BatchAuthorizeResponse of all.

        Either all are decided, or the call fails. The response has the tool sets for which there is room. The arguments
        and errors are those of `authorize`.
        """
        remembered = [self._cache.find(query.token) for query in queries]
        violations = Violations()
        for index, (known, query) in enumerate(zip(remembered, queries, strict=True)):
            if (known is None or not _is_expected(known, query)) and not violations.full:
                query.check(violations, f"requests[{index}].")
        violations.raise_if_any()
        missing = [index for index, known in enumerate(remembered) if known is None]
        loaded = await self._loader.load_all({index: queries[index].token for index in missing}, workspace_id)
        shared: dict[str, SharedToolSet] = {}
        decisions = []
        size = 0
        for index, (known, query) in enumerate(zip(remembered, queries, strict=True)):
            if index and not index % _SLICE:
                await asyncio.sleep(0)
            decisions.append(self._decide(known or loaded[index], query, workspace_id, shared))
            size += _FRAME_BYTES + len(decisions[-1].body)
            if size > encoding.MAX_BYTES:
                violations.add("requests", "would have a response of more than 4 MiB: send fewer tokens at once")
                violations.raise_if_any()
        fields = []
        for each in shared.values():
            if size + len(each.field) <= encoding.MAX_TOOL_SET_BYTES:
                size += len(each.field)
                fields.append(each.field)
        return decisions, encoding.batch((each.body for each in decisions), fields)

    async def identify_runtime(self, token: str) -> Caller | None:
        """Return the runtime instance that has this token; None if it is not the token of an active runtime key.

        Raises:
            UnavailableError: The decision cannot be made now.
        """
        known = self._cache.find(token) or await self._loader.load(token, None)
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
        """Decide about a query. In a batch, add a tool set that the caller lacks to `shared`, and only name it."""
        if isinstance(known, Denied):
            return self._denial(known)
        require_workspace(known.scope.workspace_id, workspace_id)
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


def _reach(tool_set: SharedToolSet, query: AuthorizeQuery) -> bytes | None:
    """Return the second part of a grant; None if the key does not reach the tool that is asked for."""
    if query.tool_id is not None:
        return tool_set.grant(query.tool_id)
    return tool_set.reference if query.tool_set_version == tool_set.version else tool_set.reach


def _is_expected(known: KnownKey, query: AuthorizeQuery) -> bool:
    """Return whether the fields of a query are valid without a check."""
    return query.tool_id is None and query.tool_set_version in ("", known.tool_set.version)
