"""Read workspaces from files that people write or `show` prints, and print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import catalog_service_pb2, workspace_pb2
from skilder_keys.cli import message_file, output
from skilder_keys.cli.durations import shortest
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.yaml_files.reader import Mapping, YamlFileError

if TYPE_CHECKING:
    from pathlib import Path


def read_workspace(file: Path) -> workspace_pb2.Workspace:
    """Read a workspace from a file, or from standard input for `-`. End the command if the file has an error.

    Ignore the version and the times that `show --json` prints: a backup is applied after other changes were made.
    """
    try:
        name, node = message_file.read(file)
        if isinstance(node, Mapping) and "workspace" in node.items:
            return message_file.as_message(name, node, catalog_service_pb2.GetWorkspaceResponse).workspace
        return message_file.as_message(name, node, workspace_pb2.Workspace)
    except YamlFileError as error:
        raise fail(str(error), Exit.USAGE) from None


def print_workspace(response: catalog_service_pb2.GetWorkspaceResponse, *, json: bool) -> None:
    """Print a workspace in a form that `read_workspace` accepts."""
    if json:
        output.print_json(output.as_dict(response))
        return
    shown = output.as_dict(response.workspace)
    for parts, field, enum in (
        ("members", "role", workspace_pb2.MemberRole.DESCRIPTOR),
        ("hats", "audience", workspace_pb2.HatAudience.DESCRIPTOR),
    ):
        for each in shown.get(parts, ()):
            each[field] = short_name(enum, enum.values_by_name[each[field]].number)
    for rule, value in response.workspace.key_policy.ListFields():
        if isinstance(value, Duration):
            shown["key_policy"][rule.name] = shortest(value.ToTimedelta())
    output.print_line(f"# version {response.version}, last changed {output.moment(response.updated_at)}")
    output.print_yaml(shown)
