"""skilder.keys.v1.AuthorizationService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.app.authorize import Question
from skilder.keys.v1 import authorization_service_pb2 as pb

if TYPE_CHECKING:
    from service.app.authorize import Authorizer
    from service.rpc.gate import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["AuthorizationService"]


class AuthorizationServicer:
    """Parses, calls, and passes on the ready-made bytes."""

    def __init__(self, authorizer: Authorizer, *, log_grants: bool) -> None:
        """Takes whether each grant has its line in the log, which costs a fifth of an empty call."""
        self._authorizer = authorizer
        self._log_grants = log_grants

    async def Authorize(self, request: pb.AuthorizeRequest, call: Call) -> bytes:  # noqa: N802
        """Decides about one token."""
        question, workspace_id = _question(request), call.caller.workspace_id
        answer = self._authorizer.recall(question, workspace_id)
        if answer is None:
            answer = await self._authorizer.look_up(question, workspace_id)
        if answer.denied is None:
            call.routine = not self._log_grants
        else:
            call.notes["denied"] = answer.denied.name
        if answer.key_id is not None and not call.routine:
            call.notes["key"] = str(answer.key_id)
        return answer.body

    async def BatchAuthorize(self, request: pb.BatchAuthorizeRequest, call: Call) -> bytes:  # noqa: N802
        """Decides about many tokens."""
        questions = [_question(each) for each in request.requests]
        answers, body = await self._authorizer.authorize_all(questions, call.caller.workspace_id)
        call.notes["tokens"] = str(len(answers))
        call.notes["denied"] = str(sum(answer.denied is not None for answer in answers))
        return body


def _question(request: pb.AuthorizeRequest) -> Question:
    return Question(request.token, request.tool_id, request.tool_set_version)
