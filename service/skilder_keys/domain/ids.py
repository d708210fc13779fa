"""Identifiers. Each kind has its own type, so that one cannot be used in place of another."""

from typing import NewType
from uuid import UUID

KeyId = NewType("KeyId", UUID)
WorkspaceId = NewType("WorkspaceId", str)
UserId = NewType("UserId", str)
RuntimeId = NewType("RuntimeId", str)
TeamId = NewType("TeamId", str)
HatId = NewType("HatId", str)
SkillId = NewType("SkillId", str)
ToolId = NewType("ToolId", str)
