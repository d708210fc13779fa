"""skilder.keys.v1.RuntimeService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import runtime_service_pb2 as pb
from skilder_keys.rpc import convert

if TYPE_CHECKING:
    from skilder_keys.app.key_families import KeyFamilies
    from skilder_keys.rpc.pipeline import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["RuntimeService"]


class RuntimeServicer:
    """Converts requests, calls the use case, and converts its results."""

    def __init__(self, families: KeyFamilies) -> None:
        self._families = families

    async def RotateOwnKey(self, request: pb.RotateOwnKeyRequest, call: Call) -> pb.RotateOwnKeyResponse:  # noqa: N802
        """Rotate the key that is the bearer token of the call."""
        rotated = await self._families.rotate_own(convert.rotation_spec(request), request.request_id, call.origin(""))
        call.notes.update(key=str(rotated.key.id), workspace=rotated.key.workspace_id)
        return pb.RotateOwnKeyResponse(
            key=convert.key_message(rotated.key, call.caller),
            token=rotated.token.reveal(),
            predecessor=convert.key_message(rotated.predecessor, call.caller),
        )
