"""Workspaces in files: as people write them, and as `show` and `show --json` print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import catalog_service_pb2, workspace_pb2
from skilder_keys.cli import message_file, output
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.yaml_files.reader import Mapping, YamlFileError

if TYPE_CHECKING:
    from pathlib import Path


def read_workspace(file: Path) -> workspace_pb2.Workspace:
    """Read a workspace from a file, or from standard input for `-`; a file at fault ends the command.

    The version and the times that `show --json` prints beside it are of no account: what was kept as a backup is
    applied after other changes, or there would be no need for it.
    """
    try:
        name, node = message_file.read(file)
        if isinstance(node, Mapping) and "workspace" in node.items:
            return message_file.as_message(name, node, catalog_service_pb2.GetWorkspaceResponse).workspace
        return message_file.as_message(name, node, workspace_pb2.Workspace)
    except YamlFileError as error:
        raise fail(str(error), Exit.USAGE) from None


def print_workspace(response: catalog_service_pb2.GetWorkspaceResponse, *, json: bool) -> None:
    """Print a workspace as `read_workspace` takes it."""
    if json:
        output.print_json(output.as_dict(response))
        return
    shown = output.as_dict(response.workspace)
    for member in shown.get("members", ()):
        member["role"] = output.short(output.MEMBER_ROLE, output.MEMBER_ROLE.Value(member["role"]))
    output.print_line(f"# version {response.version}, last changed {output.moment(response.updated_at)}")
    output.print_yaml(shown)
