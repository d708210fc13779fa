"""Key ids for tests, made as the database makes them."""

from __future__ import annotations

import uuid_utils.compat

from skilder_keys.domain.ids import KeyId


def new_key_id() -> KeyId:
    """Return a UUID version 7 (RFC 9562), which sorts by the time it was made."""
    return KeyId(uuid_utils.compat.uuid7())
