"""skilder.keys.v1.KeyService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.app.enums import REVOKE_SCOPES
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.keys import RevokeScope
from skilder_keys.rpc import convert, convert_explanations
from skilder_keys.rpc.convert_key_filters import key_filter, key_listing
from skilder_keys.rpc.convert_key_updates import key_update

if TYPE_CHECKING:
    from skilder_keys.app.explanations import Explanations
    from skilder_keys.app.key_changes import KeyChanges
    from skilder_keys.app.key_families import KeyFamilies
    from skilder_keys.app.key_revocations import KeyRevocations
    from skilder_keys.app.keys import Keys
    from skilder_keys.app.tool_users import ToolUsers
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.offload import Offload
    from skilder_keys.rpc.pipeline import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["KeyService"]


class KeyServicer:
    """Converts requests, calls the use case, and converts its results."""

    def __init__(
        self,
        keys: Keys,
        changes: KeyChanges,
        families: KeyFamilies,
        revocations: KeyRevocations,
        explanations: Explanations,
        tool_users: ToolUsers,
        offload: Offload,
    ) -> None:
        """Make the servicer.

        Args:
            keys: The use cases, but for those below.
            changes: The use cases that change keys.
            families: Those of several generations of a key.
            revocations: The one that revokes many keys.
            explanations: The one that explains what a key reaches.
            tool_users: The one that lists who reaches a tool.
            offload: Where long messages are converted.
        """
        self._keys = keys
        self._changes = changes
        self._families = families
        self._explanations = explanations
        self._tool_users = tool_users
        self._revocations = revocations
        self._offload = offload

    async def IssueKey(self, request: pb.IssueKeyRequest, call: Call) -> pb.IssueKeyResponse:  # noqa: N802
        """Issue a key, and return its token, which is never shown again."""
        issued = await self._keys.issue(convert.key_spec(request), request.request_id, call.origin(request.actor))
        call.notes.update(key=str(issued.key.id), workspace=issued.key.workspace_id)
        return pb.IssueKeyResponse(key=convert.key_message(issued.key, call.caller), token=issued.token.reveal())

    async def RotateKey(self, request: pb.RotateKeyRequest, call: Call) -> pb.RotateKeyResponse:  # noqa: N802
        """Issue a successor of a key, and return its token, which is never shown again."""
        rotated = await self._families.rotate(
            request.key_id, convert.rotation_spec(request), request.request_id, call.origin(request.actor)
        )
        call.notes.update(key=str(rotated.key.id), workspace=rotated.key.workspace_id)
        return pb.RotateKeyResponse(
            key=convert.key_message(rotated.key, call.caller),
            token=rotated.token.reveal(),
            predecessor=convert.key_message(rotated.predecessor, call.caller),
        )

    async def RevokeKey(self, request: pb.RevokeKeyRequest, call: Call) -> pb.RevokeKeyResponse:  # noqa: N802
        """Revoke a key, or all keys of its family, by its id or by its token."""
        origin = call.origin(request.actor)
        whole_family = convert.optional("scope", request.scope, REVOKE_SCOPES) is RevokeScope.FAMILY
        other_ids: tuple[KeyId, ...] = ()
        match request.WhichOneof("target"):
            case "key_id" if whole_family:
                key, other_ids = await self._families.revoke(request.key_id, request.reason, origin)
            case "token" if whole_family:
                key, other_ids = await self._families.revoke_by_token(request.token, request.reason, origin)
            case "key_id":
                key = await self._keys.revoke(request.key_id, request.reason, origin)
            case "token":
                key = await self._keys.revoke_by_token(request.token, request.reason, origin)
            case _:
                raise InvalidRequestError(FieldViolation("target", "is required: set key_id or token"))
        call.notes.update(key=str(key.id), workspace=key.workspace_id)
        return pb.RevokeKeyResponse(key=convert.key_message(key, call.caller), other_key_ids=map(str, other_ids))

    async def RevokeKeys(self, request: pb.RevokeKeysRequest, call: Call) -> pb.RevokeKeysResponse:  # noqa: N802
        """Revoke the keys that match a filter."""
        revoked = await self._revocations.revoke(
            key_filter(request.workspace_id, request.filter),
            request.reason,
            call.origin(request.actor),
            dry_run=request.dry_run,
            max_keys=request.max_keys if request.HasField("max_keys") else None,
        )
        call.notes["workspace"] = request.workspace_id
        if not request.dry_run:
            call.notes["revoked"] = str(revoked.count)
        return pb.RevokeKeysResponse(key_count=revoked.count, key_ids=map(str, revoked.key_ids), more=revoked.more)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, call: Call) -> pb.UpdateKeyResponse:  # noqa: N802
        """Change a key."""
        key = await self._changes.update(request.key.id, key_update(request), call.origin(request.actor))
        call.notes.update(key=str(key.id), workspace=key.workspace_id)
        return pb.UpdateKeyResponse(key=convert.key_message(key, call.caller))

    async def SuspendKey(self, request: pb.SuspendKeyRequest, call: Call) -> pb.SuspendKeyResponse:  # noqa: N802
        """Suspend a key."""
        key = await self._changes.suspend(request.key_id, request.reason, call.origin(request.actor))
        call.notes.update(key=str(key.id), workspace=key.workspace_id)
        return pb.SuspendKeyResponse(key=convert.key_message(key, call.caller))

    async def ResumeKey(self, request: pb.ResumeKeyRequest, call: Call) -> pb.ResumeKeyResponse:  # noqa: N802
        """Resume a key."""
        key = await self._changes.resume(request.key_id, request.reason, call.origin(request.actor))
        call.notes.update(key=str(key.id), workspace=key.workspace_id)
        return pb.ResumeKeyResponse(key=convert.key_message(key, call.caller))

    async def ListKeys(self, request: pb.ListKeysRequest, call: Call) -> bytes:  # noqa: N802
        """List keys of a workspace."""
        page = await self._keys.list(
            key_listing(request),
            page_size=request.page_size,
            page_token=request.page_token,
            actor=UserId(request.actor) if request.actor else None,
        )
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert.list_keys_response, page, call.caller)

    async def CountKeys(self, request: pb.CountKeysRequest, call: Call) -> pb.CountKeysResponse:  # noqa: N802
        """Count the keys of a workspace by type and state."""
        found = await self._keys.count(
            key_filter(request.workspace_id, request.filter), UserId(request.actor) if request.actor else None
        )
        call.notes["workspace"] = request.workspace_id
        return convert.count_keys_response(found)

    async def GetKey(self, request: pb.GetKeyRequest, call: Call) -> pb.GetKeyResponse:  # noqa: N802
        """Return a key."""
        key = await self._keys.get(request.key_id, UserId(request.actor) if request.actor else None, call.caller.limits)
        call.notes.update(key=str(key.id), workspace=key.workspace_id)
        return pb.GetKeyResponse(key=convert.key_message(key, call.caller))

    async def ExplainKey(self, request: pb.ExplainKeyRequest, call: Call) -> bytes:  # noqa: N802
        """Explain what a key reaches and why."""
        explanation, page = await self._explanations.explain(
            request.key_id,
            convert_explanations.asked_tool(request),
            request.source_ip,
            page_size=request.page_size,
            page_token=request.page_token,
            actor=UserId(request.actor) if request.actor else None,
            limits=call.caller.limits,
        )
        call.notes.update(key=str(explanation.key.id), workspace=explanation.key.workspace_id)
        return await self._offload.run(convert_explanations.explain_key_response, explanation, page, call.caller)

    async def ListToolUsers(self, request: pb.ListToolUsersRequest, call: Call) -> bytes:  # noqa: N802
        """List who reaches a tool."""
        tool = convert_explanations.asked_tool(request)
        if tool is None:
            raise InvalidRequestError(FieldViolation("tool", "is required: set tool_id or tool_name"))
        page = await self._tool_users.page(
            WorkspaceId(request.workspace_id),
            tool,
            page_size=request.page_size,
            page_token=request.page_token,
            actor=UserId(request.actor) if request.actor else None,
        )
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_explanations.list_tool_users_response, page, call.caller)
