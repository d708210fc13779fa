"""Activity, usage, reports and the audit trail with the names of real life, on terminals of every kind and in pipes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
from rich.cells import cell_len

from skilder.keys.v1.key_pb2 import KEY_TYPE_USER
from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_EDITOR
from skilder_keys.cli.text import UNSAFE
from tests.environment.conftest import Surroundings
from tests.support.activity_facts import Fact, insert_facts, insert_unproven
from tests.support.cases import TAKEN_TEXTS, TAKEN_TOOL_IDS, TAKEN_USER_IDS
from tests.support.lengths import LONG, by_form
from tests.support.postgres import new_database
from tests.support.screen import without_colours
from tests.support.service import TOKENS, serving
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_C: dict[str, Any] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_DENIED = 2
COMMANDS = (
    ("activity", "list", "-w", "acme"),
    ("activity", "list", "--unproven"),
    ("usage", "-w", "acme", "--top", "50"),
    ("usage", "-w", "acme", "--by", "user"),
    ("usage", "-w", "acme", "--by", "tool"),
    ("usage", "-w", "acme", "--chart"),
    ("usage", "-w", "acme", "--chart", "--since", "1h"),
    ("report", "-w", "acme"),
    ("audit", "list", "-w", "acme"),
)


@pytest.fixture(scope="module")
async def surroundings(
    postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Surroundings]:
    """The command, and a service whose keys, members and tools have the names of real life."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "token").write_text(TOKENS["operator"])
    async with new_database(postgres_url, template) as url, serving(url, folder, transport="grpcio") as service:
        workspace = small_workspace()
        for user in TAKEN_USER_IDS:
            workspace.members.add(user_id=user, role=MEMBER_ROLE_EDITOR)
        await service.operator.apply(workspace)
        keys = [(await service.operator.issue(description=text)).key for text in TAKEN_TEXTS.values()]
        keys += [
            (await service.operator.issue(type=KEY_TYPE_USER, user_id=user, description=user[:200])).key
            for user in TAKEN_USER_IDS
        ]
        sql = await asyncpg.connect(url)
        minute = int(time.time()) // 60
        facts = [
            Fact(minute - 1, UUID(key.id), TAKEN_TOOL_IDS[at % len(TAKEN_TOOL_IDS)], source="2001:db8:1:2:3:4:5:6")
            for at, key in enumerate(keys)
        ]
        facts += [Fact(minute - 2, UUID(key.id), outcome=_DENIED, count=10**9) for key in keys[:5]]
        await insert_facts(sql, facts)
        await insert_unproven(sql, minute, ["gateway"], _DENIED, "USK_4mBq8Jd41x")
        await sql.close()
        yield Surroundings(service, folder, keys, "")


def check_lines(shown: str, width: int) -> None:
    """Fail if a line is too wide, but for a word or a command, which stay whole so that people can copy them."""
    assert UNSAFE.search(shown.replace("\n", "").replace("\t", "")) is None
    for line in shown.splitlines():
        is_whole = " " not in line or line.startswith(("Left out", "    skilder-keys "))
        assert cell_len(line) <= width or is_whole, line


@pytest.mark.parametrize("command", COMMANDS)
async def test_names_of_real_life_fit_a_terminal(surroundings: Surroundings, command: tuple[str, ...]) -> None:
    """At 80 columns and at 40, with wide characters, marks that join and letters from right to left.

    The short form has the narrow terminal, on which more is wrapped and cut.
    """
    for width in by_form((40,), (80, 40)):
        code, shown = await surroundings.terminal(*command, width=width)
        assert code == 0, shown
        check_lines(without_colours(shown), width)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] in {"report", "audit"} or "--chart" in each])
async def test_names_of_real_life_are_escaped_where_there_is_no_utf8(
    surroundings: Surroundings, command: tuple[str, ...]
) -> None:
    """On a terminal, and in a pipe. The short form forks the commands from one interpreter without UTF-8."""
    surroundings = replace(surroundings, forks=not LONG)
    code, shown = await surroundings.terminal(*command, width=80, **_C)
    assert (code, shown.isascii()) == (0, True), shown
    check_lines(without_colours(shown), 80)
    done = await surroundings.run(*command, **_C)
    assert (done.returncode, done.stdout.isascii(), done.stderr) == (0, True, b"")


@pytest.mark.parametrize("command", COMMANDS)
async def test_names_of_real_life_go_through_a_pipe(surroundings: Surroundings, command: tuple[str, ...]) -> None:
    """Each row is one line with all columns, whatever the names have in them."""
    done = await surroundings.run(*command)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    if command[0] == "report" or "--chart" in command:
        check_lines(text, 80)
    else:
        assert len({line.count("\t") for line in text.splitlines()}) == 1
    if command[:3] == ("usage", "-w", "acme") and "--top" in command:
        assert {key.description for key in surroundings.keys} <= {
            cell for line in text.splitlines() for cell in line.split("\t")
        }
