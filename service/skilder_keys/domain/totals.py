"""How much a workspace holds, for the limits that count all of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from skilder_keys.domain.difference import KINDS, Part, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.domain.ids import SkillId
    from skilder_keys.domain.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Totals:
    """How much a workspace holds.

    Attributes:
        members, teams, hats, skills, tools: The number of its parts.
        links: The ids in its parts: the teams of members and hats, the skills of hats, the tools of skills.
        tool_paths: The different paths hat, skill, tool.
        bytes: Its size as a message.
    """

    members: int
    teams: int
    hats: int
    skills: int
    tools: int
    links: int
    tool_paths: int
    bytes: int

    @classmethod
    def of(cls, workspace: Workspace, size: int, around: Around | None = None) -> Self:
        """Count a whole workspace, or some parts of one.

        Args:
            workspace: The workspace, or some parts of it.
            size: Its size as a message.
            around: What other parts add to the paths of these; None for a whole workspace.
        """
        catalog = workspace.catalog
        around = around or Around({}, {})
        sizes = {**around.skill_sizes, **{skill.id: len(skill.tool_ids) for skill in catalog.skills}}
        paths = sum(sizes.get(skill_id, 0) for hat in catalog.hats for skill_id in hat.skill_ids)
        paths += sum(len(skill.tool_ids) * around.hats_of_skill.get(skill.id, 0) for skill in catalog.skills)
        counts = {part: len(parts) for part, parts in parts_of(workspace).items()}
        return cls(
            members=counts[Part.MEMBER],
            teams=counts[Part.TEAM],
            hats=counts[Part.HAT],
            skills=counts[Part.SKILL],
            tools=counts[Part.TOOL],
            links=sum(len(member.team_ids) for member in workspace.members)
            + sum(len(hat.team_ids) + len(hat.skill_ids) for hat in catalog.hats)
            + sum(len(skill.tool_ids) for skill in catalog.skills),
            tool_paths=paths,
            bytes=size,
        )

    def count(self, part: Part) -> int:
        """Return the number of parts of a kind."""
        number: int = getattr(self, f"{part.value}s")
        return number

    @property
    def parts(self) -> int:
        """The number of parts of all kinds."""
        return sum(map(self.count, KINDS))

    @property
    def elements(self) -> int:
        """The number of parts, and of ids in parts."""
        return self.parts + self.links

    def changed(self, before: Totals, after: Totals) -> Totals:
        """Return the totals of a workspace in which some parts have other totals than before."""
        return Totals(
            **{
                each.name: getattr(self, each.name) - getattr(before, each.name) + getattr(after, each.name)
                for each in fields(Totals)
            }
        )


@dataclass(frozen=True, slots=True)
class Noted:
    """What is known of the contents of a workspace without reading them.

    Attributes:
        totals: How much it holds.
        digests: By kind, the digests of the pieces in which an apply sent the parts, joined. Whoever sends a piece with
            one of them sends what there is. A kind may lack them.
    """

    totals: Totals
    digests: Mapping[Part, bytes]


@dataclass(frozen=True, slots=True)
class Around:
    """What parts that stay add to the paths of parts that change.

    Attributes:
        skill_sizes: The number of tools of skills that stay, by their ids.
        hats_of_skill: By the id of a skill that changes, how many hats that stay name it.
    """

    skill_sizes: Mapping[SkillId, int]
    hats_of_skill: Mapping[SkillId, int]
