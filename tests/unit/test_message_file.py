"""Messages from YAML and JSON files: what fits, and the line, entry and field of what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from skilder.keys.v1 import workspace_pb2
from skilder_keys.cli.message_file import as_message
from skilder_keys.yaml_files import reader
from skilder_keys.yaml_files.reader import YamlFileError
from tests.support.workspaces import example_workspace, small_workspace, workspace_from


def faults(text: str) -> list[str]:
    """Return the errors about a workspace file, which must be refused."""
    with pytest.raises(YamlFileError) as caught:
        as_message("f", reader.parse("f", text.encode()), workspace_pb2.Workspace)
    return [line.removeprefix("f:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("names", [True, False], ids=["proto names", "JSON names"])
@pytest.mark.parametrize("message", [small_workspace(), example_workspace()], ids=["small", "example"])
def test_the_apis_own_json_is_read(message: Any, names: bool) -> None:  # noqa: FBT001
    """With either spelling of the field names, and the full names of enum values."""
    text = json.dumps(MessageToDict(message, preserving_proto_field_name=names), indent=2)
    assert workspace_from(text) == message


def test_a_field_that_is_left_out_stays_unset() -> None:
    """A field without a value counts as left out."""
    found = workspace_from("id: a\nteams: [{id: t, name: T, parent_id: null}]\ntools: [{id: x, disabled: }]\n")
    assert found.teams[0].parent_id == ""
    assert not found.tools[0].disabled
    found = workspace_from("tools: [{disabled: yes}, {disabled: Off}]")
    assert [each.disabled for each in found.tools] == [True, False]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[]", "1: is not a workspace: write a mapping with id, name, members, teams, hats, skills, tools"),
        ("id: a\nnames: A", "2: there is no field 'names': did you mean name?"),
        ("id: a\nzzz: A", "2: there is no field 'zzz': the fields are id, name, members, teams, hats, skills, tools"),
        (
            "hats:\n- id: h\n  descripton: x\n",
            "3: hats[0] 'h': there is no field 'descripton': did you mean description?",
        ),
        ("members:\n- user_id: a\n  userId: b", "3: members[0] 'a': user_id is set twice, once as userId"),
        ("members:\n- user_id: a\n  role: boss", "3: members[0] 'a': role: 'boss' is not admin, editor or viewer"),
        ("members: [{role: 1}]", "1: members[0]: role: '1' is not admin, editor or viewer"),
        ("members:\nid: a", "1: members: is nothing: write [] for an empty list, or leave it out"),
        ("members: ada", "1: members: is a text: write a list, such as [one, two]"),
        ("members: [ada]", "1: members[0]: is a text: write a mapping with user_id, role, team_ids"),
        ("members:\n- user_id: a\n  team_ids: b", "3: members[0] 'a': team_ids: is a text: write a list"),
        ("name: [a]", "1: name: is a list: write one value"),
        ("name: {a: b}", "1: name: is a mapping: write one value"),
        ("name:", "1: name: has no value"),
        ("skills: [{id: s, tool_ids: [a, 7]}]", "1: skills[0] 's': tool_ids[1]: 7 without quotes is a number in YAML"),
        (
            "tools: [{id: t, disabled: 'yes'}]",
            "1: tools[0] 't': disabled: is 'yes': write true or false, without quotes",
        ),
        (
            "tools: [{id: t, active: false}]",
            "1: tools[0] 't': there is no field active any more: write `disabled: true` for a",
        ),
        ("hats:\n- id: h\n  audience: all", "3: hats[0] 'h': audience: 'all' is not teams or workspace"),
        ("hats:\n- {id: h, audience: [a]}", "2: hats[0] 'h': audience: is a list: write one value"),
        ("teams:\n- {id: null, name: x}", "2: teams[0] 'null': id: null without quotes is nothing in YAML"),
        ("hats:\n- {id: h, name: No}", "2: hats[0] 'h': name: No without quotes is true or false in YAML"),
        ("id: a\nname: 2026-11-25", "2: name: 2026-11-25 without quotes is a date in YAML"),
    ],
)
def test_a_value_that_does_not_fit_is_named(text: str, error: str) -> None:
    """The error gives the line, the entry by position and id, the field, and what to do."""
    (found,) = faults(text)
    assert found.startswith(error)
    if " without quotes is " in error:
        written = error.partition(" without")[0].rpartition(" ")[2]
        assert found.endswith(f', and not a text: quote it: "{written}"')


def test_many_unquoted_values_are_reported_briefly() -> None:
    """The first ten entries are named with their lines, the rest are counted."""
    text = "id: hr\nmembers:\n" + "".join(f"  - {{user_id: 0{number:06}, role: viewer}}\n" for number in range(300))
    found = faults(text)
    assert found[0].startswith("3: members[0] '0000000': user_id: 0000000 without quotes is a number in YAML")
    assert found[10:] == ["and 290 more"]


def test_errors_stay_short_and_show_no_token() -> None:
    """Errors end up in logs."""
    token = "WSK_" + "a" * 71
    (found,) = faults(f"members: [{{user_id: a, role: {token}}}]")
    assert token not in found
    (found,) = faults(f"{token}: x")
    assert token not in found
    assert len(faults("members: [{user_id: a, role: " + "x" * 100_000 + "}]")[0]) < 300
    assert len(faults("name: " + "7" * 100_000)[0]) < 300
