"""`apply` reads what `show` and `show --json` print, whatever the texts and ids are."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skilder.keys.v1.catalog_service_pb2 import GetWorkspaceResponse
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE, HatAudience, MemberRole, Workspace
from skilder_keys.cli.workspace_file import print_workspace, read_workspace
from tests.support.shapes import canonical
from tests.support.workspaces import example_workspace, small_workspace

# Texts that YAML or JSON could read as something else, or fold, strip or break.
HARD = [
    *("yes", "no", "on", "null", "~", "0104233", "1e3", "0x1F", "12:30", ".inf", "2026-01-01", "=", "<<", "-", "?"),
    *("- a", "# a", "a # b", "a: b", ": a", "{a}", "[a]", "&a", "*a", "!a", "|", ">", "%a", "@a", "`a`", "a,b"),
    *("'", '"', "\\", "\\n", '\\"', "''", "it's", "a'b\"c", "\\u0041", "\\ud83d\\ude80"),
    *("a\n", "a\n\n", "\na", "\n\n a", " a\n  b\n", "a\n\tb", "\ta", "a \nb", "a\n b\n\n\nc", "a\n---\nb", "a\n...\n"),
    *("x" * 500, "word " * 99 + "end", "é" * 300, ("long line " * 30 + "\n") * 3),
    *(
        "\u2028",
        "a\u2028b",
        "a\u2029b",
        "a\u0085b",
        "a\u00a0b",
        "\ufeffa",
        "a\ufeffb",
        "\ufffe",
        "\uffff",
        "\x7f",
        "\x80",
    ),
    *(
        "\U0001f680",
        "\U0001f469\u200d\U0001f4bb",
        "Cafe\u0301",
        "\uf8ff",
        "\u05e9\u200f!",
        "\U0010ffff",
        "a\rb",
        "a\r\nb",
    ),
]
# No surrogates: protobuf rejects them. No NUL and other C0 controls: no version of the service accepts them.
TEXTS = st.sampled_from(HARD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, {*range(32)} - {9, 10, 13}))),
    max_size=40,
)


@st.composite
def workspaces(draw: st.DrawFn) -> Workspace:
    """Draw a workspace with any text in any field, including texts that the service would refuse."""
    workspace = Workspace(id=draw(TEXTS), name=draw(TEXTS))
    ids = st.lists(TEXTS, max_size=3)
    for _ in range(draw(st.integers(0, 2))):
        role = draw(st.sampled_from(MemberRole.values()[1:]))
        workspace.members.add(user_id=draw(TEXTS), role=role, team_ids=draw(ids))
        workspace.teams.add(id=draw(TEXTS), name=draw(TEXTS), parent_id=draw(TEXTS | st.just("")))
        workspace.hats.add(
            id=draw(TEXTS),
            name=draw(TEXTS),
            description=draw(TEXTS),
            instructions=draw(TEXTS),
            skill_ids=draw(ids),
            audience=draw(st.sampled_from(HatAudience.values()[1:])),
        )
        workspace.skills.add(id=draw(TEXTS), name=draw(TEXTS), description=draw(TEXTS), tool_ids=draw(ids))
        workspace.tools.add(id=draw(TEXTS), name=draw(TEXTS), mcp_server=draw(TEXTS), disabled=draw(st.booleans()))
    return workspace


def printed(workspace: Workspace, encoding: str, *, json: bool) -> bytes:
    """Return what `show` prints of a workspace to a standard output with that encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    response = GetWorkspaceResponse(
        workspace=workspace, version=7, created_at=Timestamp(seconds=1), updated_at=Timestamp(seconds=2, nanos=3000)
    )
    with redirect_stdout(stream):
        print_workspace(response, json=json)
    stream.flush()
    shown: bytes = stream.buffer.getvalue()
    return shown


def read(content: bytes) -> Workspace:
    """Return the workspace that `apply` reads from a file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_workspace(Path(file.name))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("json", [False, True])
@settings(deadline=None)
@given(workspace=workspaces())
@example(workspace=canonical(example_workspace()))
@example(workspace=Workspace(id="empty", name="Empty"))
def test_a_printed_workspace_is_read_back_unchanged(workspace: Workspace, encoding: str, *, json: bool) -> None:
    """Field by field, to the last character, in every output encoding."""
    assert read(printed(workspace, encoding, json=json)) == workspace


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("json", [False, True])
def test_every_difficult_text_is_kept(text: str, *, json: bool) -> None:
    """In each kind of place: a value, an item of a list, and several lines."""
    workspace = Workspace(id="a", name=text)
    workspace.hats.add(id="h", name="H", instructions=f"{text}\n{text}", skill_ids=[text, f"{text} "])
    workspace.hats[0].audience = HAT_AUDIENCE_WORKSPACE
    assert read(printed(workspace, "utf-8", json=json)) == workspace


@pytest.mark.parametrize(
    "content",
    [
        b'{"workspace": {"id": "a"}, "id": "a"}',
        b'{"workspace": []}',
        b'{"workspace": null}',
        b'{"version": "1"}',
        b'{"workspace": {"id": "a", "workspace": {}}}',
        b'{"workspace": {"id": "a"}, "workspace": {"id": "b"}}',
        b"workspace:\n  id: a\nversion: x\n",
    ],
)
def test_a_file_that_mixes_a_workspace_and_a_response_is_refused(content: bytes) -> None:
    """A mistake in a file must not be read as an empty workspace."""
    with pytest.raises(typer.Exit):
        read(content)


def test_a_response_of_the_api_is_read_with_either_spelling() -> None:
    """Grpcurl prints field names in JSON's spelling."""
    content = b"""{"workspace": {"id": "a", "members": [{"userId": "u", "role": "MEMBER_ROLE_ADMIN"}]},
                   "version": "7", "updatedAt": "2026-01-01T00:00:00Z"}"""
    assert read(content).members[0].user_id == "u"
    assert small_workspace() == read(printed(small_workspace(), "utf-8", json=True))
