"""The requests with one change that other tests send: what is changed, and that nothing is forgotten."""

from __future__ import annotations

from skilder.keys.v1 import catalog_service_pb2, workspace_pb2
from tests.support.variants import fields_of, set_fields, with_less

REQUEST = catalog_service_pb2.ApplyWorkspaceRequest(
    workspace=workspace_pb2.Workspace(
        id="acme",
        members=[workspace_pb2.Member(user_id="ada", role=workspace_pb2.MEMBER_ROLE_ADMIN, team_ids=["a", "b"])],
    ),
    expected_version=7,
    actor="ada",
)


def test_each_field_is_lessened() -> None:
    """At each depth, in each way that its kind has."""
    found = [(each.path, each.what) for each in with_less(REQUEST)]
    assert found == [
        ("workspace", "left out"),
        ("workspace", "empty"),
        ("expected_version", "left out"),
        ("expected_version", "empty"),
        ("actor", "left out"),
        ("workspace.id", "left out"),
        ("workspace.members", "left out"),
        ("workspace.members", "without [0]"),
        ("workspace.members", "[0] empty"),
        ("workspace.members[0].user_id", "left out"),
        ("workspace.members[0].role", "left out"),
        ("workspace.members[0].team_ids", "left out"),
        ("workspace.members[0].team_ids", "without [0]"),
        ("workspace.members[0].team_ids", "[0] empty"),
        ("workspace.members[0].team_ids", "without [1]"),
        ("workspace.members[0].team_ids", "[1] empty"),
    ]
    assert all(each.request != REQUEST for each in with_less(REQUEST))


def test_the_fields_of_a_request_are_compared_with_those_of_its_type() -> None:
    """By paths without the places in lists."""
    every = set(fields_of(REQUEST.DESCRIPTOR))
    assert set_fields(REQUEST) < every
    assert {"workspace.members.team_ids", "workspace.hats.skill_ids"} <= every
    assert "workspace.members.team_ids" in set_fields(REQUEST)
    assert "workspace.hats" not in set_fields(REQUEST)
