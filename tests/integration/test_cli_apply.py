"""`workspace apply`: what it shows, when it asks, and what it accepts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN, MEMBER_ROLE_EDITOR, Workspace
from tests.support.calls import get_workspace, part, remove
from tests.support.changes import serve_workspace
from tests.support.lengths import ONLY_IF_LONG
from tests.support.person import Person
from tests.support.shapes import canonical
from tests.support.workspaces import small_workspace, yaml_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.service import Service


@pytest.fixture
def transport() -> str:
    """The command line is the same with every transport, so one is enough."""
    return "grpcio"


@pytest.fixture
def person(service: Service, tmp_path: Path) -> Person:
    """Somebody with the small workspace applied."""
    return Person(service, tmp_path)


async def yes() -> str:
    """Agree."""
    return "y\n"


async def no() -> str:
    """Disagree."""
    return "n\n"


def changed(*changes: Callable[[Workspace], object]) -> Workspace:
    """Return the small workspace with changes."""
    workspace = small_workspace()
    for change in changes:
        change(workspace)
    return workspace


def without_engineering(workspace: Workspace) -> None:
    """Remove two members, a team, a hat and two tools, and change the references to them."""
    remove(workspace.members, "cyd")
    remove(workspace.teams, "engineering")
    remove(workspace.hats, "engineer")
    remove(workspace.tools, "git.commit", "git.push")
    part(workspace.skills, "code").ClearField("tool_ids")


def with_news(workspace: Workspace) -> None:
    """Add a hat and a member, make another an admin, and rename a tool."""
    workspace.hats.add(id="new", name="New", team_ids=["support"])
    workspace.members.add(user_id="dan", role=MEMBER_ROLE_ADMIN)
    part(workspace.members, "bob").role = MEMBER_ROLE_ADMIN
    part(workspace.tools, "web.search").name = "search_the_web"


def emptied(workspace: Workspace) -> None:
    """Remove everything except the name."""
    for name in ("members", "teams", "hats", "skills", "tools"):
        workspace.ClearField(name)


def widened(workspace: Workspace) -> None:
    """Let a hat of a team serve the whole workspace."""
    serve_workspace(part(workspace.hats, "engineer"))


async def state(service: Service) -> tuple[int, Workspace]:
    """Return the version and the content of `acme`."""
    found = await get_workspace(service.operator)
    return found.version, found.workspace


async def test_a_script_adds_and_updates_without_being_asked(person: Person, service: Service) -> None:
    """The changes are on standard output, and nothing is on standard error."""
    desired = changed(with_news)
    done = await person.script("apply", person.write(desired))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("Workspace acme is at version 2: 4 changes.\n")
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:-1]] == [
        ["member", "bob", "updated"],
        ["tool", "web.search", "updated"],
        ["member", "dan", "added"],
        ["hat", "new", "added"],
    ]
    assert "role editor -> admin" in done.stdout
    assert "name web_search -> search_the_web" in done.stdout
    assert await state(service) == (2, canonical(desired))


@pytest.mark.parametrize("json_", [False, True])
async def test_a_script_removes_nothing_without_yes(person: Person, service: Service, *, json_: bool) -> None:
    """The command shows the removals and exits as for bad usage; with --yes it applies them."""
    desired = changed(without_engineering, with_news)
    arguments = ("apply", person.write(desired), *(["--json"] if json_ else []))
    refused = await person.script(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    reported = refused.stderr.splitlines()
    assert [line.split()[:3] for line in reported[1:6]] == [
        ["removed", "member", "cyd"],
        ["removed", "team", "engineering"],
        ["removed", "hat", "engineer"],
        ["removed", "tool", "git.commit"],
        ["removed", "tool", "git.push"],
    ]
    assert "skill      code  (tool_ids -git.commit -git.push)" in refused.stderr
    assert (
        "5 removed (1 member, 1 team, 1 hat, 2 tools), 3 updated (1 member, 1 skill, 1 tool), 2 added (1 member, 1 hat)"
        in refused.stderr
    )
    assert "This removes 5 parts. There is no terminal to ask on: use --yes" in refused.stderr
    assert await state(service) == (1, canonical(small_workspace()))
    done = await person.script(*arguments, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    if json_:
        response = json.loads(done.stdout)
        assert (response["version"], len(response["changes"])) == ("2", 10)
    else:
        assert done.stdout.endswith("Workspace acme is at version 2: 10 changes.\n")
    assert await state(service) == (2, canonical(desired))


@pytest.mark.parametrize("answer", [yes, no])
async def test_a_person_is_asked_before_anything_is_removed(
    person: Person, service: Service, answer: Callable[[], Awaitable[str]]
) -> None:
    """On the terminal, after the removals. Yes applies exactly those; no changes nothing and exits with 130."""
    desired = changed(without_engineering)
    session = await person.terminal("apply", person.write(desired), "--json", answer=answer)
    assert "removed  hat        engineer" in session.terminal
    assert "This removes 5 parts. Go on? [y/N]" in session.terminal
    if answer is yes:
        assert session.returncode == 0
        assert json.loads(session.stdout)["version"] == "2"
        assert await state(service) == (2, canonical(desired))
    else:
        assert (session.returncode, session.stdout) == (130, "")
        assert await state(service) == (1, canonical(small_workspace()))


async def test_a_person_is_not_asked_about_additions(person: Person, service: Service) -> None:
    """Nor where nothing differs."""
    session = await person.terminal("apply", person.write(changed(with_news)))
    assert (session.returncode, session.terminal) == (0, "")
    again = await person.terminal("apply", person.write(changed(with_news)))
    assert (again.returncode, again.stdout) == (0, "Workspace acme is at version 2: nothing differed.\n")
    assert (await state(service))[0] == 2


async def test_only_the_shown_change_is_applied(person: Person, service: Service) -> None:
    """If somebody else changes the workspace before the answer, the apply fails, since its removals were not shown."""
    file = person.write(changed(without_engineering))
    other = changed(lambda workspace: workspace.hats.add(id="meanwhile", name="Meanwhile", team_ids=["support"]))

    async def meanwhile() -> str:
        await service.operator.apply(other)
        return "y\n"

    session = await person.terminal("apply", file, answer=meanwhile)
    assert session.returncode == 5, session
    assert "at version 2, not 1" in session.terminal
    assert await state(service) == (2, canonical(other))


async def test_a_hat_that_serves_more_is_asked_about(person: Person, service: Service) -> None:
    """One that served its teams and is to serve the whole workspace."""
    desired = changed(widened)
    refused = await person.script("apply", person.write(desired))
    assert refused.returncode == 2
    assert "engineer  (team_ids -engineering; audience teams -> workspace; SERVES THE WHOLE WORKSPACE" in refused.stderr
    assert "This lets 'engineer' serve the whole workspace. There is no terminal to ask on" in refused.stderr
    assert (await state(service))[0] == 1
    assert (await person.script("apply", person.write(desired), "--yes")).returncode == 0
    assert await state(service) == (2, canonical(desired))


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--dry-run", "--json"), ("--yes",)])
async def test_a_hat_that_serves_nobody_is_warned_about(
    person: Person, service: Service, options: tuple[str, ...]
) -> None:
    """On standard error, with both choices, in one line however many there are; the file is applied."""
    desired = changed(lambda workspace: part(workspace.hats, "engineer").ClearField("team_ids"))
    done = await person.script("apply", person.write(desired), *options)
    choices = "Write `team_ids: […]` to serve teams, or `audience: workspace` to serve the whole workspace.\n"
    assert (done.returncode, done.stderr) == (0, f"Warning: the hat 'engineer' serves nobody. {choices}")
    assert await state(service) == (
        (1, canonical(small_workspace())) if "--dry-run" in options else (2, canonical(desired))
    )
    for index in range(300):
        desired.hats.add(id=f"{index:02}{'x' * 60}", name="H")
    done = await person.script("apply", person.write(desired), *options)
    assert done.stderr.startswith("Warning: the hats 'engineer', '00xxx")
    assert done.stderr.endswith(f"and 296 more serve nobody. {choices}")
    assert len(done.stderr) < 600


@pytest.mark.parametrize("desired", [changed(without_engineering, with_news), changed(emptied), small_workspace()])
async def test_a_dry_run_writes_nothing(person: Person, service: Service, desired: Workspace) -> None:
    """It shows what would change and never asks; its JSON is the API's own."""
    options = ("--max-removals", "19", "--dry-run")
    done = await person.script("apply", person.write(desired), *options)
    shown = await person.script("apply", person.write(desired), *options, "--json")
    assert (done.returncode, done.stderr) == (shown.returncode, shown.stderr) == (0, "")
    assert "Nothing was written. Workspace acme would be at version" in done.stdout
    response = json.loads(shown.stdout)
    for change in response.get("changes", []):
        assert change["id"] in done.stdout
    assert await state(service) == (1, canonical(small_workspace()))


async def test_removing_most_of_a_workspace_needs_max_removals(person: Person, service: Service) -> None:
    """The list comes before the refusal, also in a dry run; --yes alone is not enough."""
    file = person.write(changed(emptied))
    for options in ((), ("--dry-run",), ("--dry-run", "--json"), ("--max-removals", "18")):
        refused = await person.script("apply", file, *options)
        assert (refused.returncode, refused.stdout) == (5, ""), options
        assert "In all: 19 removed (3 members, 3 teams, 4 hats, 4 skills, 5 tools)." in refused.stderr
        assert "would remove 19 of the 19 parts" in refused.stderr
    refused = await person.script("apply", file, "--yes")
    assert (refused.returncode, "would remove 19 of the 19 parts" in refused.stderr) == (5, True)
    assert (await person.script("apply", file, "--max-removals", "-1")).returncode == 2
    assert await state(service) == (1, canonical(small_workspace()))
    session = await person.terminal("apply", file, "--max-removals", "19", answer=yes)
    assert session.returncode == 0
    assert await state(service) == (2, canonical(changed(emptied)))


@ONLY_IF_LONG
async def test_removals_behind_very_many_changes_are_asked_about(person: Person, service: Service) -> None:
    """The service names 10,000 changes, in order of kind; the command finds the other removals by itself."""
    workspace = Workspace(id="crowd", name="Crowd")
    for index in range(10_000):
        workspace.members.add(user_id=f"user-{index}", role=MEMBER_ROLE_EDITOR)
    workspace.tools.add(id="tool", name="tool", mcp_server="server")
    await service.operator.apply(workspace)
    for member in workspace.members:
        member.role = MEMBER_ROLE_ADMIN
    workspace.ClearField("tools")
    file = person.write(workspace)
    refused = await person.script("apply", file)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[1].split() == ["removed", "tool", "tool"]
    assert "In all: 1 removed (1 tool), 10000 updated (10000 members)." in refused.stderr
    assert "This removes 1 part. There is no terminal to ask on: use --yes" in refused.stderr
    workspace.tools.add(id="new", name="new", mcp_server="server")
    done = await person.script("apply", person.write(workspace), "--yes")
    assert done.stdout.endswith(
        "… and 9982 more. In all: 10002 changes, among them 10000 updated (10000 members).\n"
        "Workspace crowd is at version 2: 10002 changes.\n"
    )
    found = json.loads((await person.script("apply", person.write(Workspace(id="more", name="More")), "--json")).stdout)
    assert found["change_count"] == 1


async def test_removals_from_standard_input_need_yes(person: Person, service: Service) -> None:
    """Standard input is the file, so nobody can be asked, not even on a terminal."""
    text = yaml_of(changed(without_engineering))
    refused = await person.script("apply", "-", stdin=text)
    assert refused.returncode == 2
    assert "Standard input is the file, so it cannot be used to ask: use --yes" in refused.stderr
    assert (await state(service))[0] == 1
    assert (await person.script("apply", "-", "--yes", stdin=text)).returncode == 0
    assert await state(service) == (2, canonical(changed(without_engineering)))


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["YAML", "JSON"])
async def test_what_show_prints_undoes_a_mistake(person: Person, service: Service, form: tuple[str, ...]) -> None:
    """An earlier copy can be applied again after other changes, from a file or a pipe, whatever its version."""
    before = await person.script("show", "acme", *form)
    same = await person.script("apply", "-", stdin=before.stdout)
    assert (same.returncode, same.stdout) == (0, "Workspace acme is at version 1: nothing differed.\n")
    await service.operator.apply(changed(without_engineering))
    back = await person.script("apply", "-", stdin=before.stdout)
    assert (back.returncode, back.stderr) == (0, "")
    assert await state(service) == (3, canonical(small_workspace()))
