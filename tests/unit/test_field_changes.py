"""What the fields of a workspace were and became, as the audit trail has it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

from skilder_keys.domain.difference import Action, Change, Part, difference
from skilder_keys.domain.field_changes import MAX_BYTES, MAX_VALUE, field_changes
from skilder_keys.domain.ids import SkillId, ToolId, WorkspaceId
from skilder_keys.domain.key_policy import NO_POLICY, KeyPolicy
from skilder_keys.domain.workspace import Tool
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces
from tests.support.workspaces import small_workspace

SMALL = checked(convert_workspaces.workspace(small_workspace()))


def test_each_field_that_changed_is_there() -> None:
    """With what it was and what it became; a part that came or went has one entry."""
    hat = next(each for each in SMALL.catalog.hats if each.id == "engineer")
    long = "x" * MAX_VALUE
    hats = tuple(
        replace(hat, name="Other", instructions=long, skill_ids=(SkillId("search"),)) if each is hat else each
        for each in SMALL.catalog.hats
    )
    tools = (*SMALL.catalog.tools[1:], Tool(ToolId("z"), "z", "web", disabled=True))
    policy = KeyPolicy(max_lifetime=timedelta(days=1))
    catalog = replace(SMALL.catalog, hats=hats, tools=tools)
    before = replace(SMALL, key_policy=NO_POLICY)
    after = replace(SMALL, name="Acme Ltd", catalog=catalog, key_policy=policy)
    gone = SMALL.catalog.tools[0]
    assert field_changes(difference(before, after)) == (
        [
            ["workspace.name", SMALL.name, "Acme Ltd"],
            ["key_policy.max_lifetime", None, 86400.0],
            [
                "hat.engineer.instructions",
                hat.instructions,
                {"sha256": sha256(f'"{long}"'.encode()).hexdigest(), "bytes": MAX_VALUE + 2},
            ],
            ["hat.engineer.name", hat.name, "Other"],
            ["hat.engineer.skill_ids", list(hat.skill_ids), ["search"]],
            [
                f"tool.{gone.id}",
                {"name": gone.name, "mcp_server": gone.mcp_server, "disabled": gone.disabled},
                None,
            ],
            ["tool.z", None, {"name": "z", "mcp_server": "web", "disabled": True}],
        ],
        0,
    )


def test_very_many_changes_are_bounded() -> None:
    """The others are counted; `changes` of the event has the ids of all."""
    tools = [Tool(ToolId(f"tool-{number}"), "a name", "server", disabled=False) for number in range(5000)]
    changes = [Change(Part.TOOL, each.id, Action.ADDED, after=each) for each in tools]
    found, left_out = field_changes(changes)
    assert len(found) + left_out == 5000
    assert MAX_BYTES < len(json.dumps(found)) < 1.1 * MAX_BYTES
    assert left_out > 0
    unknown = Change(Part.WORKSPACE, WorkspaceId("acme"), Action.UPDATED)
    assert field_changes([unknown]) == ([], 0)
