"""Authorize: whether a token is valid, and which tools it may use."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from skilder_keys.app.activity.counter import GRANTED
from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.first_sights import endless
from skilder_keys.app.authorization.query import AuthorizeQuery, Decision
from skilder_keys.app.authorization.scopes import (
    is_allowed,
    is_source_allowed,
    remembered,
    require_scope,
    within_networks,
)
from skilder_keys.app.authorization.tool_set_encoder import ToolSetEncoder
from skilder_keys.app.enums import DENIAL_REASONS
from skilder_keys.app.time_slices import TimeSlices
from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.denial import NO_SOURCE, DenialReason, Denied
from skilder_keys.domain.errors import ForeignMcpServerError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.tool_sets import WHOLE, ToolSetView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from skilder_keys.app.activity.counter import ActivityCounter
    from skilder_keys.app.authorization.first_sights import Patience
    from skilder_keys.app.authorization.key_loader import KeyLoader
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.memory import Access, Memory
    from skilder_keys.app.authorization.tool_sets import SharedToolSet
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
        activity: ActivityCounter,
        offload: Offload,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the use cases.

        Args:
            memory: What this process remembers.
            loader: Loads what memory lacks.
            usage: Collects the uses of keys.
            activity: Counts the decisions.
            offload: Where large tool sets are encoded.
            clock: Returns seconds; it decides when a batch lets other calls have their turn.
        """
        self._memory = memory
        self._loader = loader
        self._usage = usage
        self._activity = activity
        self._clock = clock
        self._encoder = ToolSetEncoder(offload)
        self.denials: Counter[DenialReason] = Counter()
        self._granted_later = 0

    @property
    def granted(self) -> int:
        """The number of granted tokens."""
        return self._memory.granted + self._granted_later

    def grant(self, query: AuthorizeQuery, limits: CallerLimits = NO_LIMITS, caller: str = "") -> bytes | None:
        """Return a grant from memory, as a serialised AuthorizeResponse.

        If memory cannot grant the query, do nothing and return None: then call `authorize`.
        """
        access = self._memory.find(query.token)
        if access is None:
            return None
        key, tools = access
        if isinstance(tools, DenialReason) or (
            (query.source_ip or key.networks is not None) and not is_source_allowed(key, query)
        ):
            return None
        if limits is not NO_LIMITS and not (
            limits.allow_workspace(key.workspace_id) and is_allowed(tools, query, limits)
        ):
            return None
        varied = tools if query.variant is WHOLE else remembered(tools, query)
        if varied is None or (query.tool_set_version and query.tool_set_version != varied.version):
            return None
        reach = _reach(varied, query)
        if reach is None:
            return None
        self._memory.granted += 1
        now = self._activity.clock()
        self._usage.note(key.id, now)
        self._activity.count(key.id, _tool(tools, query), caller, GRANTED, query.source_ip, now)
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
        require_scope(query, limits)
        found = access or await self._loader.load(query.token, limits, patience, caller)
        varied = await self._encoder.varied(within_networks(found, query), query)
        await self._prepare(varied, query)
        decision = self._decide(varied, query, limits, None)
        self._count(varied, query, decision, caller)
        return decision

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
        if query.is_about_a_tool:
            name = "tool_id" if query.tool_name is None else "tool_name"
            violations.add(f"request.{name}", "must not be set: a tool set is read as a whole")
        elif query.variant.view is ToolSetView.NONE:
            violations.add("request.view", "must not be TOOL_SET_VIEW_NONE: a tool set is what is read")
        violations.raise_if_any()
        require_scope(query, limits)
        found = self._find(query.token) or await self._loader.load(query.token, limits, patience, caller)
        found = await self._encoder.varied(within_networks(found, query), query)
        await self._prepare(found, query)
        decision = self._decide(found, query, limits, None)
        self._count(found, query, decision, caller)
        if isinstance(found, Denied) or isinstance(found[1], DenialReason):
            return decision, (decision.body,)
        return decision, (await self._encoder.encoded(found[1])).parts()

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
            require_scope(query, limits)
        missing = {index: queries[index].token for index, access in enumerate(remembered) if access is None}
        loaded = await self._loader.load_all(missing, limits, patience, caller)
        shared: dict[str, SharedToolSet] = {}
        decisions: list[Decision] = []
        counted = []
        size = 0
        for index, (access, query) in enumerate(zip(remembered, queries, strict=True)):
            if slices.over():
                await slices.next()
            found = await self._encoder.varied(within_networks(access or loaded[index], query), query)
            decisions.append(self._decide(found, query, limits, shared))
            counted.append(found)
            size += _FRAME_BYTES + len(decisions[-1].body)
            if size > encoding.MAX_BYTES:
                violations.add("requests", "would have a response of more than 4 MiB: send fewer tokens at once")
                violations.raise_if_any()
        fields = await self._encoder.fields(shared.values(), encoding.MAX_TOOL_SET_BYTES - size, slices)
        # At the end: a call that fails has decided nothing.
        for found, query, decision in zip(counted, queries, decisions, strict=True):
            self._count(found, query, decision, caller)
        return decisions, encoding.batch((each.body for each in decisions), fields)

    async def identify_runtime(self, token: str, source_ip: str) -> Caller | None:
        """Return the runtime instance that has this token; None if it is not the token of an active runtime key.

        Args:
            token: The token.
            source_ip: The address from which the instance calls; empty if it is not known.

        Raises:
            UnavailableError: The decision cannot be made now.
        """
        found = self._find(token) or await self._loader.load_stranger(token)
        if isinstance(found, Denied):
            return None
        key, reached = found
        if key.runtime is None or isinstance(reached, DenialReason):
            return None
        if key.networks is not None and not key.networks.allow(source_ip):
            return None
        self._usage.note(key.id)
        return key.runtime

    def _find(self, token: str) -> Access | None:
        """Return what memory knows of a token, and count a hit or a miss."""
        access = self._memory.find(token)
        if access is None:
            self._memory.misses += 1
        else:
            self._memory.found += 1
        return access

    async def _prepare(self, found: Access | Denied, query: AuthorizeQuery) -> None:
        """Encode the tool set if the decision needs it."""
        if isinstance(found, Denied) or isinstance(found[1], DenialReason) or query.is_about_a_tool:
            return
        if query.variant.view is not ToolSetView.NONE:
            await self._encoder.encoded(found[1])

    def _decide(
        self,
        found: Access | Denied,
        query: AuthorizeQuery,
        limits: CallerLimits,
        shared: dict[str, SharedToolSet] | None,
    ) -> Decision:
        """Decide about a query. In a batch, add a tool set that the caller lacks to `shared`, and only name it."""
        if isinstance(found, Denied):
            return self._denial(found, None)
        key, tools = found
        limits.require_workspace(key.workspace_id)
        if isinstance(tools, DenialReason):
            lacks_source = tools is DenialReason.SOURCE_NOT_ALLOWED and not query.source_ip
            return self._denial(Denied(tools, key.id, detail=NO_SOURCE if lacks_source else ""), key)
        if not is_allowed(tools, query, limits):
            raise ForeignMcpServerError
        self._usage.note(key.id)
        if shared is not None and not query.is_about_a_tool and query.variant.view is not ToolSetView.NONE:
            if query.tool_set_version != tools.version:
                shared[tools.version] = tools
            return self._granted(key, tools, tools.reference)
        reach = _reach(tools, query)
        if reach is None:
            if not query.is_about_a_tool:
                raise LookupError("the tool set is encoded before the decision")
            denied = Denied(DenialReason.TOOL_NOT_ALLOWED, key.id, query.tool_name or query.tool_id)
            return self._denial(denied, key, tools.version)
        return self._granted(key, tools, reach)

    def _count(self, found: Access | Denied, query: AuthorizeQuery, decision: Decision, caller: str) -> None:
        """Count a decision as activity."""
        now = self._activity.clock()
        outcome = GRANTED if decision.denied is None else DENIAL_REASONS[decision.denied]
        if isinstance(found, Denied):
            self._activity.count_unproven(query.token, caller, outcome, query.source_ip, now)
        else:
            key, tools = found
            self._activity.count(key.id, _tool(tools, query), caller, outcome, query.source_ip, now)

    def _granted(self, key: KnownKey, tools: SharedToolSet, reach: bytes) -> Decision:
        self._granted_later += 1
        return Decision(key.id, None, encoding.granted(key.head, reach), self._epoch(key), key, tools.version)

    def _denial(self, denied: Denied, key: KnownKey | None, version: str = "") -> Decision:
        self.denials[denied.reason] += 1
        return Decision(denied.key_id, denied.reason, encoding.denied(denied), self._epoch(key), key, version)

    def _epoch(self, key: KnownKey | None) -> int:
        """Return the change that a decision is in step with: that of memory, or of a read that is ahead of it."""
        return self._memory.epoch if key is None else max(self._memory.epoch, key.label)


def _reach(tools: SharedToolSet, query: AuthorizeQuery) -> bytes | None:
    """Return the second part of a grant.

    None if the key does not reach the tool that is asked for, or the tool set that is asked for is not encoded yet.

    Args:
        tools: The variant of the tool set that the query is about.
        query: The query.
    """
    if query.tool_id is not None:
        return tools.grant(query.tool_id)
    if query.tool_name is not None:
        return tools.grant_by_name(query.tool_name)
    if query.variant.view is ToolSetView.NONE:
        return b""
    return tools.reference if query.tool_set_version == tools.version else tools.reach


def _tool(tools: SharedToolSet | DenialReason, query: AuthorizeQuery) -> str | None:
    """Return the id of the tool that a query is about; empty without a tool, None if its id is not known."""
    if query.tool_id is not None:
        return query.tool_id
    if query.tool_name is None:
        return ""
    return None if isinstance(tools, DenialReason) else tools.id_of(query.tool_name)


def _is_expected(access: Access | None, query: AuthorizeQuery) -> bool:
    """Return whether the fields of a query are valid without a check."""
    if access is None or query.variant is not WHOLE or query.is_about_a_tool or query.source_ip:
        return False
    tools = access[1]
    return not query.tool_set_version or (
        not isinstance(tools, DenialReason) and query.tool_set_version == tools.version
    )
