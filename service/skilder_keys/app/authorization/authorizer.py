"""Authorize: whether a token is valid, and which tools it may use."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.first_sights import endless
from skilder_keys.app.authorization.query import AuthorizeQuery, Decision
from skilder_keys.app.batching import SingleFlight
from skilder_keys.app.time_slices import TimeSlices
from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.errors import ForeignMcpServerError
from skilder_keys.domain.fields import Violations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from skilder_keys.app.authorization.encoding import EncodedToolSet
    from skilder_keys.app.authorization.first_sights import Patience
    from skilder_keys.app.authorization.key_loader import KeyLoader
    from skilder_keys.app.authorization.memory import Access, Memory
    from skilder_keys.app.authorization.snapshot import SharedToolSet
    from skilder_keys.app.authorization.usage import Usage
    from skilder_keys.domain.access import Caller, CallerLimits
    from skilder_keys.offload import Offload

MAX_BATCH = 1000
"""The most queries in a batch. `rpc.limits` enforces it."""

_FRAME_BYTES = 4
"""The most bytes before each decision in the response to a batch: its tag and its length."""


class Authorizer:
    """Decides about tokens: from memory if the fence allows it, else by what the loader finds.

    Attributes:
        denials: The number of denied tokens, by reason.
    """

    def __init__(
        self,
        memory: Memory,
        loader: KeyLoader,
        usage: Usage,
        offload: Offload,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the use cases.

        Args:
            memory: What this process remembers.
            loader: Loads what memory lacks.
            usage: Collects the uses of keys.
            offload: Where large tool sets are encoded.
            clock: Returns seconds; it decides when a batch lets other calls have their turn.
        """
        self._memory = memory
        self._loader = loader
        self._usage = usage
        self._offload = offload
        self._clock = clock
        self._encoding: SingleFlight[SharedToolSet, EncodedToolSet] = SingleFlight()
        self.denials: Counter[DenialReason] = Counter()

    def grant(self, query: AuthorizeQuery, limits: CallerLimits = NO_LIMITS) -> bytes | None:
        """Return a grant from memory, as a serialised AuthorizeResponse.

        If memory cannot grant the query, do nothing and return None: then call `authorize`.
        """
        access = self._memory.find(query.token)
        if access is None:
            return None
        key, tools = access
        if isinstance(tools, DenialReason):
            return None
        if limits is not NO_LIMITS and not (
            limits.allow_workspace(key.workspace_id) and _is_allowed(tools, query, limits)
        ):
            return None
        if query.tool_set_version and query.tool_set_version != tools.version:
            return None
        reach = _reach(tools, query)
        if reach is None:
            return None
        self._memory.hits += 1
        self._usage.note(key.id)
        return encoding.granted(key.head, reach)

    async def authorize(
        self,
        query: AuthorizeQuery,
        limits: CallerLimits = NO_LIMITS,
        patience: Patience = endless,
        caller: str = "",
    ) -> Decision:
        """Decide about a token.

        Args:
            query: The token, and what is asked about it.
            limits: What the caller is limited to.
            patience: Returns how many seconds the caller still waits.
            caller: The name of the caller.

        Raises:
            InvalidRequestError: A field of the query is out of bounds.
            ForeignWorkspaceError: The key belongs to a workspace that the caller is not allowed.
            ForeignMcpServerError: The query is not about an MCP server that the caller is allowed.
            UnavailableError: The decision cannot be made now.
        """
        access = self._find(query.token)
        if not _is_expected(access, query):
            violations = Violations()
            query.check(violations, "")
            violations.raise_if_any()
        _require_scope(query, limits)
        found = access or await self._loader.load(query.token, limits, patience, caller)
        await self._prepare(found, query)
        return self._decide(found, query, limits, None)

    async def read(
        self,
        query: AuthorizeQuery,
        limits: CallerLimits = NO_LIMITS,
        patience: Patience = endless,
        caller: str = "",
    ) -> tuple[Decision, Iterable[bytes]]:
        """Decide about a token; return the decision, and the denial or all that the key reaches in parts.

        A part is a serialised ReadToolSetResponse. The arguments and errors are those of `authorize`.
        """
        violations = Violations()
        query.check(violations, "request.")
        if query.tool_id:
            violations.add("request.tool_id", "must not be set: a tool set is read as a whole")
        violations.raise_if_any()
        _require_scope(query, limits)
        found = self._find(query.token) or await self._loader.load(query.token, limits, patience, caller)
        await self._prepare(found, query)
        decision = self._decide(found, query, limits, None)
        if isinstance(found, Denied) or isinstance(found[1], DenialReason):
            return decision, (decision.body,)
        return decision, (await self._encoded(found[1])).parts()

    async def authorize_all(
        self,
        queries: Sequence[AuthorizeQuery],
        limits: CallerLimits = NO_LIMITS,
        patience: Patience = endless,
        caller: str = "",
    ) -> tuple[list[Decision], bytes]:
        """Decide about many tokens; return the decisions, in order, and a serialised BatchAuthorizeResponse of all.

        Either all are decided, or the call fails. Each is decided by a state of its own, which is not older than the
        begin of the call. The response has the tool sets for which there is room. The arguments and errors are those
        of `authorize`.
        """
        slices = TimeSlices(self._clock)
        remembered: list[Access | None] = []
        violations = Violations()
        for index, query in enumerate(queries):
            if slices.over():
                await slices.next()
            access = self._find(query.token)
            remembered.append(access)
            if not _is_expected(access, query) and not violations.full:
                query.check(violations, f"requests[{index}].")
        violations.raise_if_any()
        for query in queries if limits.mcp_servers is not None else ():
            _require_scope(query, limits)
        missing = {index: queries[index].token for index, access in enumerate(remembered) if access is None}
        loaded = await self._loader.load_all(missing, limits, patience, caller)
        shared: dict[str, SharedToolSet] = {}
        decisions = []
        size = 0
        for index, (access, query) in enumerate(zip(remembered, queries, strict=True)):
            if slices.over():
                await slices.next()
            decisions.append(self._decide(access or loaded[index], query, limits, shared))
            size += _FRAME_BYTES + len(decisions[-1].body)
            if size > encoding.MAX_BYTES:
                violations.add("requests", "would have a response of more than 4 MiB: send fewer tokens at once")
                violations.raise_if_any()
        fields = await self._fields(shared.values(), encoding.MAX_TOOL_SET_BYTES - size, slices)
        return decisions, encoding.batch((each.body for each in decisions), fields)

    async def identify_runtime(self, token: str) -> Caller | None:
        """Return the runtime instance that has this token; None if it is not the token of an active runtime key.

        Raises:
            UnavailableError: The decision cannot be made now.
        """
        found = self._find(token) or await self._loader.load_stranger(token)
        if isinstance(found, Denied):
            return None
        key, reached = found
        if key.runtime is None or isinstance(reached, DenialReason):
            return None
        self._usage.note(key.id)
        return key.runtime

    def _find(self, token: str) -> Access | None:
        """Return what memory knows of a token, and count a hit or a miss."""
        access = self._memory.find(token)
        if access is None:
            self._memory.misses += 1
        else:
            self._memory.hits += 1
        return access

    async def _prepare(self, found: Access | Denied, query: AuthorizeQuery) -> None:
        """Encode the whole tool set if the decision needs it."""
        if not isinstance(found, Denied) and not isinstance(found[1], DenialReason) and query.tool_id is None:
            await self._encoded(found[1])

    async def _encoded(self, tools: SharedToolSet) -> EncodedToolSet:
        """Return a whole tool set, encoded: in a thread, once for all calls that need it, unless it is small."""
        if tools.encoded is not None:
            return tools.encoded
        if tools.is_small:
            return tools.keep(tools.encode())
        return tools.keep(await self._encoding.get(tools, lambda: self._offload.run(tools.encode)))

    async def _fields(self, tool_sets: Iterable[SharedToolSet], room: int, slices: TimeSlices) -> list[bytes]:
        """Return the tool sets for which there is room, encoded. Do not encode the others."""
        fields = []
        for each in tool_sets:
            if slices.over():
                await slices.next()
            if each.least_bytes > room:
                continue
            field = (await self._encoded(each)).field
            if len(field) <= room:
                room -= len(field)
                fields.append(field)
        return fields

    def _decide(
        self,
        found: Access | Denied,
        query: AuthorizeQuery,
        limits: CallerLimits,
        shared: dict[str, SharedToolSet] | None,
    ) -> Decision:
        """Decide about a query. In a batch, add a tool set that the caller lacks to `shared`, and only name it."""
        if isinstance(found, Denied):
            return self._denial(found)
        key, tools = found
        limits.require_workspace(key.workspace_id)
        if isinstance(tools, DenialReason):
            return self._denial(Denied(tools, key.id))
        if not _is_allowed(tools, query, limits):
            raise ForeignMcpServerError
        self._usage.note(key.id)
        if shared is not None and query.tool_id is None:
            if query.tool_set_version != tools.version:
                shared[tools.version] = tools
            return Decision(key.id, None, encoding.granted(key.head, tools.reference))
        reach = _reach(tools, query)
        if reach is None:
            if query.tool_id is None:
                raise LookupError("the tool set is encoded before the decision")
            return self._denial(Denied(DenialReason.TOOL_NOT_ALLOWED, key.id))
        return Decision(key.id, None, encoding.granted(key.head, reach))

    def _denial(self, denied: Denied) -> Decision:
        self.denials[denied.reason] += 1
        return Decision(denied.key_id, denied.reason, encoding.denied(denied))


def _require_scope(query: AuthorizeQuery, limits: CallerLimits) -> None:
    """Raise ForeignMcpServerError if a caller that is limited to MCP servers asks about the tools of all of them."""
    if limits.mcp_servers is not None and query.tool_id is None:
        raise ForeignMcpServerError("The caller is limited to MCP servers: name a tool.")


def _is_allowed(tools: SharedToolSet, query: AuthorizeQuery, limits: CallerLimits) -> bool:
    """Return whether a caller is allowed the MCP server that a query is about.

    That is the tool's own server, whether the key reaches the tool or not. A tool that the workspace does not have, or
    has disabled, has no server, and is denied to everybody.
    """
    if limits.mcp_servers is None:
        return True
    if query.tool_id is None:
        return False
    server = tools.server_of(query.tool_id)
    return server is None or limits.allow_server(server)


def _reach(tools: SharedToolSet, query: AuthorizeQuery) -> bytes | None:
    """Return the second part of a grant.

    None if the key does not reach the tool that is asked for, or the tool set that is asked for is not encoded yet.
    """
    if query.tool_id is not None:
        return tools.grant(query.tool_id)
    return tools.reference if query.tool_set_version == tools.version else tools.reach


def _is_expected(access: Access | None, query: AuthorizeQuery) -> bool:
    """Return whether the fields of a query are valid without a check."""
    if access is None or query.tool_id is not None:
        return False
    tools = access[1]
    return not query.tool_set_version or (
        not isinstance(tools, DenialReason) and query.tool_set_version == tools.version
    )
