"""`workspace member | team | hat | skill | tool`: what the commands change, show, ask and refuse."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import grpc
import pytest
import typer

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_TEAMS,
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_ADMIN,
    MEMBER_ROLE_EDITOR,
    MEMBER_ROLE_VIEWER,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
)
from skilder_keys.cli.exits import Exit
from skilder_keys.cli.part_changes import HAT, MEMBER, SKILL, TEAM, TOOL, ListChange, changed
from skilder_keys.cli.parts import put
from tests.support.calls import get_workspace, part
from tests.support.person import Person
from tests.support.service import TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.support.service import Service


@pytest.fixture
def transport() -> str:
    """The command line is the same with every transport, so one is enough."""
    return "grpcio"


@pytest.fixture
def person(service: Service, tmp_path: Path) -> Person:
    """Somebody with the small workspace applied."""
    return Person(service, tmp_path)


async def found(service: Service, kind: Any, id_: str) -> Any:
    """Return a part of `acme`."""
    return part(getattr((await get_workspace(service.operator)).workspace, kind.list), id_)


ADDED: list[tuple[Any, str, Any]] = [
    (
        MEMBER,
        "member add acme dan --role viewer --team support",
        Member(user_id="dan", role=MEMBER_ROLE_VIEWER, team_ids=["support"]),
    ),
    (
        TEAM,
        "team add acme sales --name Sales --parent customer",
        Team(id="sales", name="Sales", parent_id="customer"),
    ),
    (
        TOOL,
        "tool add acme mail.send --name send --mcp-server mail --disabled",
        Tool(id="mail.send", name="send", mcp_server="mail", disabled=True),
    ),
    (
        SKILL,
        "skill add acme offers --name Offers --description Sells --tool mail.send --tool web.search",
        Skill(id="offers", name="Offers", description="Sells", tool_ids=["mail.send", "web.search"]),
    ),
    (
        HAT,
        "hat add acme seller --name Seller --description D --instructions I --team sales --skill offers",
        Hat(
            id="seller",
            name="Seller",
            description="D",
            instructions="I",
            team_ids=["sales"],
            skill_ids=["offers"],
            audience=HAT_AUDIENCE_TEAMS,
        ),
    ),
]
SET: list[tuple[Any, str, Any]] = [
    (MEMBER, "member set acme dan --role admin", Member(user_id="dan", role=MEMBER_ROLE_ADMIN, team_ids=["support"])),
    (
        MEMBER,
        "member set acme dan --add-team sales --remove-team support",
        Member(user_id="dan", role=MEMBER_ROLE_ADMIN, team_ids=["sales"]),
    ),
    (TEAM, "team set acme sales --parent=", Team(id="sales", name="Sales")),
    (TEAM, "team set acme sales --name Sellers", Team(id="sales", name="Sellers")),
    (TOOL, "tool enable acme mail.send", Tool(id="mail.send", name="send", mcp_server="mail")),
    (TOOL, "tool set acme mail.send --name post", Tool(id="mail.send", name="post", mcp_server="mail")),
    (TOOL, "tool disable acme mail.send", Tool(id="mail.send", name="post", mcp_server="mail", disabled=True)),
    (
        SKILL,
        "skill set acme offers --tool mail.send",
        Skill(id="offers", name="Offers", description="Sells", tool_ids=["mail.send"]),
    ),
    (
        HAT,
        "hat set acme seller --add-skill search --description=",
        Hat(
            id="seller",
            name="Seller",
            instructions="I",
            team_ids=["sales"],
            skill_ids=["offers", "search"],
            audience=HAT_AUDIENCE_TEAMS,
        ),
    ),
    (
        HAT,
        "hat set acme seller --audience workspace",
        Hat(
            id="seller",
            name="Seller",
            instructions="I",
            skill_ids=["offers", "search"],
            audience=HAT_AUDIENCE_WORKSPACE,
        ),
    ),
]


async def test_a_part_is_added_changed_and_removed(person: Person, service: Service) -> None:
    """Of each kind. What a command does not name stays; a dry run changes nothing."""
    version = 1
    for words, steps in (("added", ADDED), ("updated", SET)):
        for kind, line, expected in steps:
            arguments = line.split()
            dry = await person.script(*arguments, "--dry-run")
            assert (dry.returncode, dry.stderr) == (0, ""), line
            last = f"Nothing was written. Workspace acme would be at version {version + 1}: 1 change.\n"
            assert dry.stdout.endswith(last), line
            done = await person.script(*arguments)
            version += 1
            assert (done.returncode, done.stderr) == (0, ""), line
            assert done.stdout.endswith(f"Workspace acme is at version {version}: 1 change.\n")
            assert done.stdout.splitlines()[1].split()[:3] == [kind.word, arguments[3], words]
            assert await found(service, kind, arguments[3]) == expected, line
    for kind, id_ in ((HAT, "seller"), (SKILL, "offers"), (TOOL, "mail.send"), (TEAM, "sales")):
        if kind is TEAM:
            assert (await person.script("member", "set", "acme", "dan", "--remove-team", "sales")).returncode == 0
            version += 1
        done = await person.script(kind.word, "remove", "acme", id_, "--yes", "--json")
        version += 1
        assert json.loads(done.stdout)["version"] == str(version), done
    again = await person.script("hat", "remove", "acme", "seller", "--yes")
    assert again.stdout == f"Workspace acme is at version {version}: nothing differed.\n"


async def test_the_new_and_the_old_value_are_shown(person: Person) -> None:
    """As by `apply`."""
    done = await person.script("member", "set", "acme", "bob", "--role", "admin", "--add-team", "engineering")
    assert "role editor -> admin; team_ids +engineering" in done.stdout


async def test_nothing_is_removed_without_a_question(person: Person, service: Service) -> None:
    """In a script it needs --yes; on a terminal the answer decides."""
    refused = await person.script("member", "remove", "acme", "bob", "cyd")
    assert (refused.returncode, refused.stdout) == (Exit.USAGE, "")
    words = "This removes the members 'bob', 'cyd' from the workspace acme. Their user keys stop working at once. "
    assert f"{words}There is no terminal to ask on: use --yes" in " ".join(refused.stderr.split())

    async def no() -> str:
        return "n\n"

    async def yes() -> str:
        return "y\n"

    assert (await person.terminal("member", "remove", "acme", "bob", answer=no)).returncode != 0
    assert (await get_workspace(service.operator)).version == 1
    assert (await person.terminal("member", "remove", "acme", "bob", answer=yes)).returncode == 0
    assert (await get_workspace(service.operator)).version == 2


FAULTS = {
    "member add acme ada --role viewer": (Exit.CONFLICT, "there is a member 'ada' already: use `member set`"),
    "member set acme dan --role viewer": (
        Exit.NOT_FOUND,
        "there is no member 'dan': `workspace show acme --only members` shows those there are",
    ),
    "member set acme ada": (Exit.USAGE, "nothing to set: name at least one property, see --help"),
    "member set acme ada --team support --add-team customer": (Exit.USAGE, "--team names them all"),
    "member set acme ada --no-teams --add-team customer": (Exit.USAGE, "--no-teams names them all"),
    "member set acme ada --no-teams --team customer": (Exit.USAGE, "--team names them all"),
    "member set acme ada --add-team support --remove-team support": (Exit.USAGE, "both name 'support'"),
    "member set acme ada --add-team suport": (Exit.USAGE, "--team or --add-team of 'ada' names 'suport'"),
    "member add acme dan --role viewer --team nowhere": (
        Exit.USAGE,
        "--team of 'dan' names 'nowhere', which does not exist",
    ),
    "member add acme dan --role boss": (Exit.USAGE, "'boss'"),
    "tool add acme t --name git_push --mcp-server git": (
        Exit.USAGE,
        "--name of 't' is 'git_push' on 'git', which the tool",
    ),
    "team set acme customer --parent support": (Exit.USAGE, "--parent of 'customer' makes 'customer' its own ancestor"),
    "team remove acme customer --yes": (Exit.USAGE, "which the hat 'customer-care' and the team 'support' still name"),
    "hat add acme h --name H --audience workspace --team support": (
        Exit.USAGE,
        "--audience of 'h' is the whole workspace",
    ),
    "tool disable nowhere web.search": (Exit.NOT_FOUND, "There is no workspace 'nowhere'."),
    "tool disable acme web.search --actor bob": (Exit.FORBIDDEN, "Only an admin of the workspace may change it."),
}


@pytest.mark.parametrize("line", FAULTS)
async def test_a_fault_is_explained(person: Person, service: Service, line: str) -> None:
    """With the option that has it, and an exit code that says what kind it is of."""
    code, words = FAULTS[line]
    refused = await person.script(*line.split())
    assert words in " ".join(refused.stderr.split()), refused.stderr
    assert (refused.returncode, refused.stdout) == (code, "")
    assert (await get_workspace(service.operator)).version == 1


async def test_a_hat_that_serves_nobody_is_reported(person: Person) -> None:
    """On standard error, as by `apply`."""
    done = await person.script("hat", "add", "acme", "new", "--name", "New")
    assert done.returncode == 0
    assert done.stderr == ("Warning: the hat 'new' serves nobody. Set --team or --add-team, or --audience workspace.\n")


class Interrupted:
    """A connection to a service in which somebody else is always, or once, a little quicker."""

    def __init__(self, address: str, times: int) -> None:
        self._address = address
        self._left = times

    @contextmanager
    def stub(self, _: object) -> Iterator[Any]:
        """Yield stubs like those of a command."""
        token = (("authorization", f"Bearer {TOKENS['operator']}"),)
        with grpc.insecure_channel(self._address) as channel:
            real: Any = CatalogServiceStub(channel)

            def update(request: pb.UpdateWorkspaceRequest) -> Any:
                if self._left:
                    self._left -= 1
                    other = pb.WorkspaceParts(
                        members=[Member(user_id="bob", role=MEMBER_ROLE_VIEWER, team_ids=[f"t{self._left}"])],
                        teams=[Team(id=f"t{self._left}", name="T")],
                    )
                    real.UpdateWorkspace(pb.UpdateWorkspaceRequest(workspace_id="acme", put=other), metadata=token)
                return real.UpdateWorkspace(request, metadata=token)

            yield SimpleNamespace(
                GetWorkspace=lambda request: real.GetWorkspace(request, metadata=token), UpdateWorkspace=update
            )


async def test_a_change_that_somebody_makes_in_between_is_kept(service: Service) -> None:
    """The command reads the part again, as often as it must, and gives up in the end."""
    teams = {"team_ids": ListChange("team", more=["engineering"])}
    some: Any = Interrupted(service.address, 3)
    await asyncio.to_thread(put, some, changed(MEMBER, "acme", "bob", "", dry_run=False, lists=teams), json=True)
    assert list((await found(service, MEMBER, "bob")).team_ids) == ["engineering", "t0"]
    assert (await found(service, MEMBER, "bob")).role == MEMBER_ROLE_VIEWER
    always: Any = Interrupted(service.address, 1_000_000)
    change = changed(MEMBER, "acme", "bob", "", dry_run=False, role=MEMBER_ROLE_ADMIN)
    with pytest.raises(typer.Exit) as late:
        await asyncio.to_thread(put, always, change, json=True, patience=0.0)
    assert late.value.exit_code == Exit.CONFLICT
    assert (await found(service, MEMBER, "bob")).role == MEMBER_ROLE_VIEWER


def test_a_list_keeps_its_order_and_has_each_id_once() -> None:
    """What is added comes last; what is there already is not added again."""
    assert ListChange("team", more=["c", "a", "d"], less=["b"]).changed(["a", "b", "c"]) == ["a", "c", "d"]
    assert ListChange("team", only=["b", "a", "b"]).changed(["c"]) == ["b", "a"]
    assert ListChange("team", none=True).changed(["c"]) == []
    assert ListChange("team").changed(["b", "a"]) == ["b", "a"]


async def test_ids_that_are_not_there_are_reported(person: Person, service: Service) -> None:
    """On standard error: a mistyped id must not look like a person who was removed."""
    done = await person.script("member", "remove", "acme", "bib", "bob", "--yes")
    assert (done.returncode, done.stderr) == (0, "Warning: there is no member 'bib'.\n")
    done = await person.script("member", "remove", "acme", "bib")
    assert (done.returncode, done.stderr) == (0, "Warning: there is no member 'bib'.\n")
    assert done.stdout.endswith("Workspace acme is at version 2: nothing differed.\n")
    done = await person.script("member", "set", "acme", "cyd", "--role", "editor", "--remove-team", "suport")
    assert (done.returncode, done.stderr) == (0, "Warning: the member 'cyd' has no team 'suport'.\n")
    assert (await found(service, MEMBER, "cyd")).role == MEMBER_ROLE_EDITOR


async def test_ids_may_begin_with_a_dash(person: Person, service: Service) -> None:
    """After `--`, everything is an id, so an option there would be lost: it is refused."""
    id_ = "-rqBZ4aPjEK"
    assert (await person.script("member", "add", "acme", "--role", "viewer", "--", id_)).returncode == 0
    assert (await found(service, MEMBER, id_)).role == MEMBER_ROLE_VIEWER
    refused = await person.script("member", "remove", "acme", "--yes", "--", id_, "--dry-run")
    assert (refused.returncode, refused.stdout) == (Exit.USAGE, "")
    assert "--dry-run comes after `--`" in refused.stderr
    assert (await found(service, MEMBER, id_)).role == MEMBER_ROLE_VIEWER
    refused = await person.script("member", "remove", "acme", id_)
    assert "put `--` before ids that begin with a dash" in " ".join(refused.stderr.split())


async def test_a_list_is_emptied(person: Person, service: Service) -> None:
    """By an option of its own, which no unset variable can be."""
    assert (await person.script("member", "set", "acme", "bob", "--no-teams")).returncode == 0
    assert list((await found(service, MEMBER, "bob")).team_ids) == []
    assert (await person.script("skill", "set", "acme", "search", "--no-tools")).returncode == 0
    assert list((await found(service, SKILL, "search")).tool_ids) == []
    done = await person.script(
        "hat", "set", "acme", "customer-care", "--audience", "workspace", "--remove-team", "customer"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (await found(service, HAT, "customer-care")).audience == HAT_AUDIENCE_WORKSPACE
    refused = await person.script("hat", "set", "acme", "customer-care", "--add-team", "customer")
    assert refused.returncode == Exit.USAGE
    assert "set --audience teams too" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    "line",
    [
        "list --user=",
        "hats acme --user=",
        "tools acme --skill=",
        "tools acme --mcp-server=",
        "members acme --team=",
        "members acme --text=",
        "member set acme bob --role admin --actor=",
        "show acme --actor=",
    ],
)
async def test_an_option_that_is_given_but_empty_is_refused(person: Person, service: Service, line: str) -> None:
    """An unset variable must not list everything, nor act with the operator's own power."""
    refused = await person.script(*line.split())
    assert (refused.returncode, refused.stdout) == (Exit.USAGE, "")
    assert f"{line.rsplit(maxsplit=1)[1].removesuffix('=')} is empty: give a value, or leave it out" in refused.stderr
    assert (await get_workspace(service.operator)).version == 1


async def test_the_output_without_all_parts_is_no_workspace(person: Person) -> None:
    """It never has the id, so `apply` refuses it."""
    refused = await person.script("show", "acme", "--only", "id")
    assert (refused.returncode, refused.stdout) == (Exit.USAGE, "")
    shown = await person.script("show", "acme", "--only", "name", "--only", "tools")
    assert (shown.returncode, "\nid:" in f"\n{shown.stdout}") == (0, False)
