"""skilder.keys.v1.AuthorizationService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.app.authorize import Question
from service.domain.verdict import Denied
from skilder.keys.v1 import authorization_service_pb2 as pb

if TYPE_CHECKING:
    from service.app.authorize import Authorizer
    from service.rpc.gate import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["AuthorizationService"]


class AuthorizationServicer:
    """Parses, calls, and passes on the ready-made bytes."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def Authorize(self, request: pb.AuthorizeRequest, call: Call) -> bytes:  # noqa: N802
        """Decides about one token."""
        question = Question(request.tool_id, request.tool_set_version, call.caller.workspace_id)
        answer = await self._authorizer.authorize(request.token, question)
        if isinstance(answer.verdict, Denied):
            call.notes["denied"] = answer.verdict.reason.name
            if answer.verdict.key_id is not None:
                call.notes["key"] = str(answer.verdict.key_id)
        else:
            call.notes["key"] = str(answer.verdict.key.id)
        return answer.body
