"""Identifiers. Each kind is a type of its own, so that one cannot be passed for another."""

from typing import NewType
from uuid import UUID

import uuid_utils.compat

KeyId = NewType("KeyId", UUID)
WorkspaceId = NewType("WorkspaceId", str)
UserId = NewType("UserId", str)
RuntimeId = NewType("RuntimeId", str)
TeamId = NewType("TeamId", str)
HatId = NewType("HatId", str)
SkillId = NewType("SkillId", str)
ToolId = NewType("ToolId", str)


def new_key_id() -> KeyId:
    """Makes a key id: a UUID version 7 (RFC 9562), so that ids sort by the time they were made."""
    return KeyId(uuid_utils.compat.uuid7())
