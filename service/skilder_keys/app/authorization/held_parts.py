"""Hats and skills in memory, each with its piece of a tool set and a digest of all that it groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId
    from skilder_keys.domain.workspace import HatAudience
    from skilder_keys.storage.snapshots import HatRow, SkillRow


@dataclass(frozen=True, slots=True)
class HeldHat:
    """A hat in memory: who reaches it, its skills, its piece of a tool set, and the digest of all that it groups.

    Attributes:
        texts: What a full view adds to `piece`.
        full_digest: The digest for a full view.
    """

    id: HatId
    name: str
    audience: HatAudience
    team_ids: tuple[TeamId, ...]
    skill_ids: frozenset[SkillId]
    piece: bytes
    digest: bytes
    texts: bytes
    full_digest: bytes


@dataclass(frozen=True, slots=True)
class HeldSkill:
    """A skill in memory: its tools, also disabled ones, its piece of a tool set, and the digest of all it groups.

    Attributes:
        texts: What a full view adds to `piece`.
        full_digest: The digest for a full view.
    """

    id: SkillId
    name: str
    tool_ids: tuple[ToolId, ...]
    piece: bytes
    digest: bytes
    texts: bytes
    full_digest: bytes


def held_skill(row: SkillRow | HeldSkill, tools: Mapping[ToolId, bytes]) -> HeldSkill:
    """Return a skill with those of its tools that are among the pieces of some tools."""
    enabled = [each for each in row.tool_ids if each in tools]
    pieces = [tools[each] for each in enabled]
    piece = encoding.skill_piece(row.id, row.name, enabled)
    texts = row.texts if isinstance(row, HeldSkill) else encoding.skill_texts(row.description)
    digest, full_digest = encoding.digest((piece, *pieces)), encoding.digest((piece, texts, *pieces))
    return HeldSkill(row.id, row.name, row.tool_ids, piece, digest, texts, full_digest)


def held_hat(row: HatRow | HeldHat, skills: Mapping[SkillId, HeldSkill]) -> HeldHat:
    """Return a hat that groups skills. Those that are missing here do not count in its digests."""
    skill_ids = sorted(row.skill_ids)
    grouped = [skills[each] for each in skill_ids if each in skills]
    piece = encoding.hat_piece(row.id, row.name, skill_ids)
    texts = row.texts if isinstance(row, HeldHat) else encoding.hat_texts(row.description, row.instructions)
    digest = encoding.digest((piece, *(each.digest for each in grouped)))
    full_digest = encoding.digest((piece, texts, *(each.full_digest for each in grouped)))
    return HeldHat(
        row.id, row.name, row.audience, row.team_ids, frozenset(skill_ids), piece, digest, texts, full_digest
    )


def basic_piece(held: HeldHat | HeldSkill) -> bytes:
    """Return the piece of a tool set."""
    return held.piece


def full_piece(held: HeldHat | HeldSkill) -> bytes:
    """Return the piece of a tool set in a full view."""
    return encoding.with_texts(held.piece, held.texts)
