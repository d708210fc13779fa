"""skilder.keys.v1.AuthorizationService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.app.enums import TOOL_SET_VIEWS
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.tool_sets import WHOLE, ToolName, ToolSetView, Variant
from skilder_keys.rpc.convert import optional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skilder_keys.app.authorization.authorizer import Authorizer
    from skilder_keys.app.authorization.query import Decision
    from skilder_keys.domain.access import Caller
    from skilder_keys.rpc.decision_log import DecisionLog
    from skilder_keys.rpc.pipeline import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["AuthorizationService"]


class AuthorizationServicer:
    """Converts requests, calls the use case, and returns the serialised responses that it makes."""

    def __init__(self, authorizer: Authorizer, decisions: DecisionLog) -> None:
        """Make the servicer.

        Args:
            authorizer: The use case.
            decisions: Records the decisions.
        """
        self._authorizer = authorizer
        self._decisions = decisions

    @property
    def fast_paths(self) -> dict[str, Callable[[pb.AuthorizeRequest, Caller], bytes | None]]:
        """The methods that can respond from memory; none if each grant is recorded."""
        return {} if self._decisions.every else {"Authorize": self._grant}

    async def Authorize(self, request: pb.AuthorizeRequest, call: Call) -> bytes:  # noqa: N802
        """Decide about one token."""
        query = _query(request)
        decision = await self._authorizer.authorize(
            query, call.caller.limits, call.context.time_remaining, call.caller.name
        )
        call.routine = True  # the decision log has it
        self._decisions.note(query, decision, call)
        return decision.body

    async def BatchAuthorize(self, request: pb.BatchAuthorizeRequest, call: Call) -> bytes:  # noqa: N802
        """Decide about many tokens."""
        queries = [_query(each) for each in request.requests]
        decisions, body = await self._authorizer.authorize_all(
            queries, call.caller.limits, call.context.time_remaining, call.caller.name
        )
        call.notes["tokens"] = str(len(decisions))
        denied = sum(each.denied is not None for each in decisions)
        if denied or self._decisions.every:
            for query, decision in zip(queries, decisions, strict=True):
                self._decisions.note(query, decision, call)
        call.notes["denied"] = str(denied)
        if denied:
            call.denial = "some"
        return body

    async def ReadToolSet(self, request: pb.ReadToolSetRequest, call: Call) -> Iterable[bytes]:  # noqa: N802
        """Decide about one token, and return everything that it reaches."""
        if not request.HasField("request"):
            raise InvalidRequestError(FieldViolation("request", "is required"))
        query = _query(request.request)
        decision, parts = await self._authorizer.read(
            query, call.caller.limits, call.context.time_remaining, call.caller.name
        )
        self._decisions.note(query, decision, call)
        _note(decision, call)
        return parts

    def _grant(self, request: pb.AuthorizeRequest, caller: Caller) -> bytes | None:
        return self._authorizer.grant(_query(request), caller.limits, caller.name)


def _query(request: pb.AuthorizeRequest) -> AuthorizeQuery:
    scope, view = request.WhichOneof("scope"), request.view
    tool_id = ToolId(request.tool_id) if scope == "tool_id" else None
    query = AuthorizeQuery(request.token, tool_id, request.tool_set_version)
    if scope == "tool_name":
        query.tool_name = ToolName(request.tool_name.mcp_server, request.tool_name.name)
    if request.source_ip:
        query.source_ip = request.source_ip
    server = request.mcp_server if scope == "mcp_server" else None
    if view or server is not None:
        variant = Variant(server, optional("view", view, TOOL_SET_VIEWS) or ToolSetView.BASIC)
        query.variant = WHOLE if variant == WHOLE else variant
    return query


def _note(decision: Decision, call: Call) -> None:
    if decision.denied is not None:
        call.notes["denied"] = call.denial = decision.denied.name
    if decision.key_id is not None:
        call.notes["key"] = str(decision.key_id)
