"""Workspaces for tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from google.protobuf.json_format import MessageToDict

from skilder.keys.v1 import workspace_pb2
from skilder_keys.cli.message_file import as_message
from skilder_keys.yaml_files import reader

EXAMPLE_FILE = Path(__file__).parents[2] / "examples" / "acme.yaml"
# libyaml is eight times as fast as PyYAML's own code.
_DUMPER: type = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_SMALL = """
id: acme
name: Acme
members:
  - {user_id: ada, role: admin}
  - {user_id: bob, role: editor, team_ids: [support]}
  - {user_id: cyd, role: viewer, team_ids: [engineering]}
teams:
  - {id: customer, name: Customer}
  - {id: support, name: Support, parent_id: customer}
  - {id: engineering, name: Engineering}
hats:
  - {id: everyone, name: Everyone, audience: workspace, skill_ids: [search]}
  - {id: customer-care, name: Customer Care, team_ids: [customer], skill_ids: [slack-reading]}
  - {id: support-desk, name: Support Desk, team_ids: [support], skill_ids: [slack-reading, slack-replies]}
  - {id: engineer, name: Engineer, team_ids: [engineering], skill_ids: [code, search]}
skills:
  - {id: search, name: Search, tool_ids: [web.search]}
  - {id: slack-reading, name: Slack reading, tool_ids: [slack.history]}
  - {id: slack-replies, name: Slack replies, tool_ids: [slack.history, slack.post]}
  - {id: code, name: Code, tool_ids: [git.commit, git.push]}
tools:
  - {id: web.search, name: web_search, mcp_server: web}
  - {id: slack.history, name: slack_get_channel_history, mcp_server: slack}
  - {id: slack.post, name: slack_post_message, mcp_server: slack}
  - {id: git.commit, name: git_commit, mcp_server: git}
  - {id: git.push, name: git_push, mcp_server: git, disabled: true}
"""


def small_workspace(workspace_id: str = "acme") -> workspace_pb2.Workspace:
    """Return a workspace with one of each thing that the permission rules distinguish.

    `ada` is an admin in no team, `bob` an editor in `support`, which is below `customer`, `cyd` a viewer in
    `engineering`. `git.push` is disabled. `slack.history` is in two skills, `search` in two hats.
    """
    workspace = workspace_pb2.Workspace()
    workspace.CopyFrom(_small())
    workspace.id = workspace_id
    return workspace


@cache
def _small() -> workspace_pb2.Workspace:
    return workspace_from(_SMALL)


def example_workspace() -> workspace_pb2.Workspace:
    """Return the workspace of `examples/acme.yaml`."""
    workspace = workspace_pb2.Workspace()
    workspace.CopyFrom(_example())
    return workspace


@cache
def _example() -> workspace_pb2.Workspace:
    return workspace_from(EXAMPLE_FILE.read_text("utf-8"))


def workspace_from(text: str) -> workspace_pb2.Workspace:
    """Return the workspace that a YAML text describes."""
    return as_message("test", reader.parse("test", text.encode()), workspace_pb2.Workspace)


def yaml_of(workspace: workspace_pb2.Workspace) -> str:
    """Return a file that describes a workspace."""
    return str(
        yaml.dump(MessageToDict(workspace, preserving_proto_field_name=True), Dumper=_DUMPER, allow_unicode=True)
    )
