"""protobuf -> domain, for changes of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.enums import KEY_LIMITS
from skilder_keys.domain.ids import HatId
from skilder_keys.domain.key_update import KeyUpdate
from skilder_keys.domain.labels import labels_of
from skilder_keys.rpc.convert import each, moment

if TYPE_CHECKING:
    from skilder.keys.v1 import key_service_pb2


def key_update(request: key_service_pb2.UpdateKeyRequest) -> KeyUpdate:
    """Return what to change about a key.

    Raises:
        InvalidRequestError: `key.expires_at` is no time, or a value of `unlimited` is unknown.
    """
    key = request.key
    return KeyUpdate(
        mask=tuple(request.update_mask.paths),
        given=tuple(field.name for field, _ in key.ListFields() if field.name != "id"),
        description=key.description,
        expires_at=moment("key.expires_at", key.expires_at) if key.HasField("expires_at") else None,
        hat_ids=tuple(map(HatId, key.hat_limit.hat_ids)) if key.HasField("hat_limit") else None,
        networks=tuple(key.network_limit.networks) if key.HasField("network_limit") else None,
        labels=labels_of(key.labels),
        unlimited=each("unlimited", request.unlimited, KEY_LIMITS),
        expected_version=request.expected_version if request.HasField("expected_version") else None,
    )
