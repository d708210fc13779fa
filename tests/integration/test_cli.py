"""The command line, as its users and their scripts meet it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from skilder.keys.v1 import key_pb2
from tests.support.calls import delete_workspace, remove
from tests.support.command_line import CommandLine
from tests.support.process import FRESH, run_command
from tests.support.rows import insert_key
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import EXAMPLE_FILE, small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT


@pytest.fixture
def command(service: Service, tmp_path: Path) -> CommandLine:
    """The command line, with the small workspace applied."""
    return CommandLine(service, tmp_path)


async def test_a_keys_life_as_json(command: CommandLine) -> None:
    """Programs get the API's own documents, with its field names."""
    issued = await command.json("keys", "issue", "-w", "acme", "--hat", "support-desk", "Slack Support Bot")
    key_id, token = issued["key"]["id"], issued["token"]
    assert issued["key"]["hat_limit"] == {"hat_ids": ["support-desk"]}
    granted = (await command.json("authorize", "--tool", "slack.post", stdin=token))["granted"]
    assert granted["tool"]["paths"] == [{"hat_id": "support-desk", "skill_id": "slack-replies"}]
    assert [key["id"] for key in (await command.json("keys", "list", "-w", "acme"))["keys"]] == [key_id]
    assert (await command.json("keys", "show", key_id))["last_used_at"]
    revoked = await command.json("keys", "revoke", key_id, "--yes", "--reason", "rotated")
    assert (revoked["state"], revoked["revoke_reason"]) == ("KEY_STATE_REVOKED", "rotated")
    denied = await command.json("authorize", stdin=token, code=1)
    assert denied["denied"]["reason"] == "DENIAL_REASON_REVOKED"


async def test_the_token_alone_goes_to_standard_output(command: CommandLine) -> None:
    """So a pipe gets the token and nothing else, and two commands can be combined."""
    issued = await command("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    assert len(issued.stdout.strip()) == 75
    assert issued.stdout.strip() not in issued.stderr
    assert "Slack Support Bot" in issued.stderr
    assert (await command("authorize", stdin=issued.stdout)).stdout.startswith("granted")


async def test_a_key_that_expires(command: CommandLine) -> None:
    """After a length of time or at a time, in UTC or with an offset; the time is shown wherever the key is."""
    issue = ("keys", "issue", "-w", "acme", "--all-hats", "Bot")
    key = (await command.json(*issue, "--expires-in", "90d"))["key"]
    created, expires = (datetime.fromisoformat(key[name]) for name in ("created_at", "expires_at"))
    assert expires - created == timedelta(days=90)
    issued = await command(*issue, "--expires-at", "2031-05-31T18:00+02:00")
    assert "expires\t2031-05-31 16:00:00Z" in issued.stderr.splitlines()
    assert "expires\t2031-05-31 16:00:00Z" in (await command("authorize", stdin=issued.stdout)).stdout.splitlines()
    listed = (await command("keys", "list", "-w", "acme")).stdout.splitlines()
    assert "expires" in listed[0].split("\t")
    assert "\t2031-05-31 16:00:00Z\t" in listed[1]
    for options, words in (
        (("--expires-in", "90"), "write one as 45s, 30m, 12h, 90d or 2w"),
        (("--expires-at", "tomorrow"), "is not a time"),
        (("--expires-in", "1d", "--expires-at", "2031-01-01"), "not both"),
        (("--expires-in", "0s"), "--expires-in is 0 s; 1 s to 3653 days are allowed"),
        (("--expires-at", "2020-01-01"), "which is past"),
    ):
        refused = await command(*issue, *options)
        assert refused.returncode == 2, options
        assert words in " ".join(refused.stderr.replace("│", " ").split()), options
    assert len((await command.json("keys", "list", "-w", "acme"))["keys"]) == 2


async def test_a_key_is_changed(command: CommandLine) -> None:
    """What is named and nothing else. Faults are named by their options."""
    issued = await command.json("keys", "issue", "-w", "acme", "--hat", "engineer", "Bot")
    update = ("keys", "update", issued["key"]["id"])
    changed = await command.json(*update, "--description", "Another", "--expected-version", "1")
    assert (changed["description"], changed["hat_limit"], changed["version"]) == (
        "Another",
        {"hat_ids": ["engineer"]},
        "2",
    )
    assert (await command.json(*update, "--hat", "engineer", "--hat", "everyone"))["hat_limit"] == {
        "hat_ids": ["engineer", "everyone"]
    }
    assert (await command.json(*update, "--no-hats"))["hat_limit"] == {}
    assert "hat_limit" not in await command.json(*update, "--all-hats", "--expires-at", "2031-01-01")
    assert "expires\t2031-01-01 00:00:00Z" in (await command(*update, "--description", "3")).stdout.splitlines()
    assert (await command.json(*update, "--expires-in", "2w"))["expires_at"] < "2031"
    assert "expires_at" not in await command.json(*update, "--never-expires")
    for options, code, words in (
        ((), 2, "name what to change"),
        (("--no-hats", "--all-hats"), 2, "give only one of --hat"),
        (("--expires-in", "1d", "--never-expires"), 2, "give only one of --expires-in"),
        (("--hat", "nothing"), 2, "--hat (number 1) names 'nothing', which the workspace does not have"),
        (("--expires-at", "2020-01-01"), 2, "--expires-at is 2020-01-01T00:00:00+00:00, which is past"),
        (("--description", ""), 2, "--description is required"),
        (("--description", "x", "--expected-version", "1"), 5, "is at version 8, not 1"),
    ):
        refused = await command(*update, *options)
        assert (refused.returncode, words in refused.stderr) == (code, True), (options, refused.stderr)


async def test_a_key_of_a_network(command: CommandLine) -> None:
    """It is good from there, which `authorize` has to say."""
    issue = ("keys", "issue", "-w", "acme", "--all-hats", "Bot")
    issued = await command(*issue, "--network", "198.51.100.0/24", "--network", "2001:db8::/32")
    assert "networks\t198.51.100.0/24, 2001:db8::/32" in issued.stderr.splitlines()
    key_id = issued.stderr.splitlines()[0].split("\t")[1]
    granted = await command("authorize", "--source-ip", "198.51.100.7", stdin=issued.stdout)
    assert granted.stdout.startswith("granted")
    for options, words in (((), "set source_ip"), (("--source-ip", "10.0.0.1"), "may not be used from this address")):
        denied = await command("authorize", *options, stdin=issued.stdout)
        assert (denied.returncode, words in denied.stdout) == (1, True), denied.stdout
    bad = await command("authorize", "--source-ip", "here", stdin=issued.stdout)
    assert (bad.returncode, "--source-ip is 'here'" in bad.stderr) == (2, True)
    changed = await command.json("keys", "update", key_id, "--network", "10.0.0.0/8")
    assert changed["network_limit"] == {"networks": ["10.0.0.0/8"]}
    assert "network_limit" not in await command.json("keys", "update", key_id, "--any-network")
    for command_line in ((*issue, "--network", "10.0.0.1/8"), ("keys", "update", key_id, "--network", "10.0.0.1/8")):
        refused = await command(*command_line)
        assert refused.returncode == 2
        assert "--network (number 1) is '10.0.0.1/8', which has bits after the first 8" in refused.stderr
    both = await command("keys", "update", key_id, "--network", "10.0.0.0/8", "--any-network")
    assert (both.returncode, "give only one of --network" in both.stderr) == (2, True)


async def test_a_key_is_suspended_and_resumed(command: CommandLine) -> None:
    """By its hint, too. Whoever looks at the key sees why; a revoked key is refused."""
    issued = await command.json("keys", "issue", "-w", "acme", "--all-hats", "Bot")
    key_id, hint = issued["key"]["id"], issued["key"]["hint"]
    suspended = await command("keys", "suspend", hint, "-w", "acme", "--reason", "Odd calls", "--actor", "ada")
    assert suspended.returncode == 0
    shown = (await command("keys", "show", key_id)).stdout.splitlines()
    assert "state\tsuspended" in shown
    assert "why suspended\tOdd calls" in shown
    assert any(line.startswith("suspended\t") and line.endswith("Z by user ada") for line in shown)
    listed = await command.json("keys", "list", "-w", "acme", "--state", "suspended")
    assert [key["id"] for key in listed["keys"]] == [key_id]
    assert (await command.json("authorize", stdin=issued["token"], code=1))["denied"]["reason"].endswith("SUSPENDED")
    resumed = await command.json("keys", "resume", key_id, "--reason", "All was well")
    assert (resumed["state"], resumed["version"]) == ("KEY_STATE_ACTIVE", "3")
    await command("keys", "revoke", key_id, "--yes")
    for verb in ("suspend", "resume"):
        refused = await command("keys", verb, key_id)
        assert (refused.returncode, "is revoked, which cannot be undone" in refused.stderr) == (5, True)


async def test_a_shown_workspace_applies_as_it_is(command: CommandLine, tmp_path: Path) -> None:
    """`apply` accepts what `show` prints, and nothing differs."""
    shown = await command("workspace", "show", "acme")
    assert yaml.safe_load(shown.stdout)["members"][0] == {"user_id": "ada", "role": "admin"}
    applied = await command("workspace", "apply", "-", stdin=shown.stdout)
    assert applied.stdout == "Workspace acme is at version 1: nothing differed.\n"
    (tmp_path / "example.yaml").write_text(EXAMPLE_FILE.read_text("utf-8").replace("id: acme\n", "id: other\n", 1))
    created = await command.json("workspace", "apply", "example.yaml", "--expected-version", "0")
    assert len(created["changes"]) == 150
    listed = await command.json("workspace", "list")
    assert [each["id"] for each in listed["workspaces"]] == ["acme", "other"]


async def test_a_part_of_a_workspace_is_shown(command: CommandLine) -> None:
    """Without the id, so that `apply` refuses it instead of removing the rest."""
    shown = await command("workspace", "show", "acme", "--only", "teams", "--only", "members", "--actor", "bob")
    assert list(yaml.safe_load(shown.stdout)) == ["members", "teams"]
    assert shown.stdout.startswith("# version 1, last changed 20")
    found = await command.json("workspace", "show", "acme", "--only", "tools")
    assert list(found["workspace"]) == ["tools"]
    applied = await command("workspace", "apply", "-", "--yes", stdin=shown.stdout)
    assert (applied.returncode, "workspace.id is required" in applied.stderr) == (2, True)
    wrong = await command("workspace", "show", "acme", "--only", "members,teams")
    assert (wrong.returncode, "is not one of" in wrong.stderr) == (2, True)


async def test_an_actor_sees_their_own_workspaces(command: CommandLine, service: Service) -> None:
    """A member's are listed and shown; to anybody else they are forbidden."""
    other = small_workspace("other")
    remove(other.members, "bob")
    await service.operator.apply(other)

    async def listed(*options: str) -> list[str]:
        return [each["id"] for each in (await command.json("workspace", "list", *options))["workspaces"]]

    assert await listed() == await listed("--actor", "ada") == ["acme", "other"]
    assert await listed("--actor", "bob") == ["acme"]
    assert await listed("--actor", "mallory") == []
    assert (await command("workspace", "show", "acme", "--actor", "bob")).returncode == 0
    refused = await command("workspace", "show", "other", "--actor", "bob")
    assert (refused.returncode, "not a member" in refused.stderr) == (3, True)


async def test_the_workspaces_of_a_user_and_deleted_ones_are_listed(command: CommandLine, service: Service) -> None:
    """In columns of their own, after those that are always there."""
    await service.operator.apply(small_workspace("other"))
    await delete_workspace(service.operator, "other")

    async def cells(*options: str) -> list[list[str]]:
        done = await command("workspace", "list", *options)
        return [[each for each in line.split("\t") if each[:2] != "20"] for line in done.stdout.splitlines()]

    head = ["workspace", "name", "version", "created", "changed"]
    assert await cells() == [head, ["acme", "Acme", "1"]]
    assert await cells("--user", "bob") == [[*head, "role"], ["acme", "Acme", "1", "editor"]]
    assert await cells("--user", "nobody") == [[*head, "role"]]
    assert await cells("--deleted") == [[*head, "deleted"], ["acme", "Acme", "1", "-"], ["other", "Acme", "2"]]
    assert await cells("--deleted", "--user", "cyd") == [
        [*head, "role", "deleted"],
        ["acme", "Acme", "1", "viewer", "-"],
    ]
    found = await command.json("workspace", "list", "--user", "ada", "--actor", "cyd")
    assert [each["member_role"] for each in found["workspaces"]] == ["MEMBER_ROLE_ADMIN"]


@pytest.mark.parametrize(
    ("parts", "options", "rows"),
    [
        (
            "members",
            [],
            [
                ["user", "role", "teams"],
                ["ada", "admin", "-"],
                ["bob", "editor", "support"],
                ["cyd", "viewer", "engineering"],
            ],
        ),
        (
            "members",
            ["--text", "B", "--team", "support", "--role", "editor", "--actor", "cyd"],
            [["bob", "editor", "support"]],
        ),
        (
            "hats",
            ["--user", "bob", "--text", "e"],
            [
                ["customer-care", "Customer Care", "teams", "customer", "slack-reading"],
                ["everyone", "Everyone", "workspace", "-", "search"],
                ["support-desk", "Support Desk", "teams", "support", "slack-reading, slack-replies"],
            ],
        ),
        ("tools", ["--mcp-server", "git", "--text", "push"], [["git.push", "git_push", "git", "disabled"]]),
        ("tools", ["--skill", "search"], [["web.search", "web_search", "web", "enabled"]]),
    ],
)
async def test_parts_of_a_workspace_are_listed(
    command: CommandLine, parts: str, options: list[str], rows: list[list[str]]
) -> None:
    """As columns in a pipe, and as the API's document; the command line passes each filter on."""
    done = await command("workspace", parts, "acme", *options)
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert found == rows if not options else found[1:] == rows
    document = await command.json("workspace", parts, "acme", *options)
    shown = [row[0] for row in found[1:]]
    assert [each.get("user_id") or each["id"] for each in document[parts]] == shown


async def test_a_list_of_parts_can_be_limited(command: CommandLine) -> None:
    """Standard error then says that there is more; an unknown role is an error of the command line."""
    done = await command("workspace", "tools", "acme", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3
    assert "There are more: --limit 2" in done.stderr
    wrong = await command("workspace", "members", "acme", "--role", "owner")
    assert (wrong.returncode, "is not one of" in wrong.stderr) == (2, True)
    nowhere = await command("workspace", "hats", "nowhere")
    assert nowhere.returncode == 4


async def test_a_search_goes_on_until_the_last_page(command: CommandLine, sql: asyncpg.Connection[Any]) -> None:
    """Though pages without a match come first, or last. Whether there are more is known only from another match."""
    await sql.execute(
        "INSERT INTO tool SELECT 'acme', 'many' || n, 'n' || n, 'm', false FROM generate_series(1, 5000) AS n"
    )
    for text, tool in (("search", "web.search"), ("push", "git.push")):
        done = await command("workspace", "tools", "acme", "--text", text, "--limit", "1")
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["tool", tool]
        assert "There are more" not in done.stderr
    limited = await command("workspace", "tools", "acme", "--text", "many", "--limit", "1")
    assert "There are more: --limit 1" in limited.stderr


async def test_a_deleted_workspace_is_gone(command: CommandLine) -> None:
    """Its id cannot be used again, which is a conflict."""
    assert (await command("workspace", "delete", "acme", "--yes")).stdout.startswith("Workspace acme was deleted at 20")
    assert (await command("workspace", "show", "acme")).returncode == 4
    again = await command("workspace", "apply", str(EXAMPLE_FILE))
    assert again.returncode == 5
    assert "its id cannot be used again" in again.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("members: [", "standard input:2: is not YAML: while parsing a flow node"),
        ("[]", "standard input:1: is not a workspace"),
        ("id: acme\nnames: Acme", "standard input:2: there is no field 'names': did you mean name?"),
        ("id: acme\nmembers: [{user_id: ada, role: boss}]", "members[0] 'ada': role: 'boss' is not admin, editor"),
        ("id: acme\nmembers: 7", "members: is a number: write a list"),
        ("id: acme\ntools: [{id: [1]}]", "tools[0]: id: is a list: write one value"),
        ("id: acme\nmembers: []\nmembers: []", "standard input:3: members occurs twice, first in line 2"),
        ("id: acme\nmembers: [{user_id: 007, role: admin}]", "user_id: 007 without quotes is a number"),
        (
            "id: acme\nname: Acme\nhats: [{id: h, name: H, skill_ids: [x]}]",
            "workspace.hats[0].skill_ids[0] of 'h' names 'x'",
        ),
    ],
)
async def test_an_error_in_a_file_names_the_place(command: CommandLine, content: str, message: str) -> None:
    """Whether YAML, the command or the service finds it, the exit code is 2 and the field is named."""
    done = await command("workspace", "apply", "-", stdin=content)
    assert done.returncode == 2, done
    assert message in done.stderr


async def test_exit_codes_tell_what_went_wrong(command: CommandLine, service: Service) -> None:
    """One code for each kind of error, as docs/command-line.md lists them."""
    unknown = "01890000-0000-7000-8000-000000000000"
    assert (await command("keys", "show", unknown)).returncode == 4
    assert (await command("keys", "show", "nonsense")).returncode == 2
    assert (await command("keys", "revoke")).returncode == 2
    assert (await command("keys", "revoke", unknown, "--token")).returncode == 2
    assert (await command("keys", "list", "-w", "acme", "--state", "lost")).returncode == 2
    assert (await command("keys", "list", "-w", "acme", caller="service")).returncode == 3
    assert (await command("keys", "issue", "-w", "acme", "--all-hats", "--actor", "cyd", "Bot")).returncode == 3
    assert (await command("authorize", stdin="no token")).returncode == 1
    issued = await service.operator.issue(request_id="once")
    await service.operator.authorize(issued.token)
    again = ("keys", "issue", "-w", "acme", "--all-hats", "--request-id", "once", "Slack Support Bot")
    assert (await command(*again)).returncode == 5


async def test_a_missing_service_or_token_is_reported(tmp_path: Path) -> None:
    """Exit code 6 with the address for a service; exit code 2 with the way to give one for a token."""
    (tmp_path / "token").write_text("some-token")
    variables = {"SKILDER_KEYS_SERVER": "127.0.0.1:1", "SKILDER_KEYS_TOKEN_FILE": "token"}
    done = await asyncio.to_thread(run_command, "workspace", "list", folder=tmp_path, command=FRESH, **variables)
    assert (done.returncode, "cannot reach the service at 127.0.0.1:1" in done.stderr) == (6, True)
    done = await asyncio.to_thread(run_command, "workspace", "list", folder=tmp_path, command=FRESH)
    assert (done.returncode, "--token-file" in done.stderr) == (2, True)


async def test_keys_can_be_listed_by_what_people_look_for(command: CommandLine) -> None:
    """Type, user, state, idleness and number. If there are more keys than shown, the command says so."""
    for number in range(3):
        await command("keys", "issue", "-w", "acme", "--all-hats", f"Bot {number}")
    await command("keys", "issue", "-w", "acme", "--all-hats", "--type", "user", "--user", "bob", "Bob's own")

    async def listed(*options: str) -> list[str]:
        found = await command.json("keys", "list", "-w", "acme", *options)
        return [key["description"] for key in found["keys"]]

    assert await listed() == ["Bob's own", "Bot 2", "Bot 1", "Bot 0"]
    assert await listed("--type", "user") == ["Bob's own"]
    assert await listed("--type", "user", "--type", "runtime") == ["Bob's own"]
    assert await listed("--user", "bob", "--actor", "bob") == ["Bob's own"]
    assert await listed("--user", "ada", "--user", "bob") == ["Bob's own"]
    assert await listed("--actor", "bob") == ["Bob's own"]
    assert await listed("--actor", "cyd") == []
    assert await listed("--state", "active", "--state", "member_removed") == await listed()
    assert await listed("--state", "revoked") == []
    assert await listed("--unused-since", "1d") == []
    assert await listed("--unused-since", "0d") == ["Bob's own", "Bot 2", "Bot 1", "Bot 0"]
    few = await command("keys", "list", "-w", "acme", "--limit", "2")
    assert "There are more" in few.stderr


@ONLY_GRPCIO
async def test_keys_can_be_counted(command: CommandLine, service: Service) -> None:
    """By type and state, with the filters of `list`: as a table, or as the API's own document."""
    for _ in range(2):
        await service.operator.issue()
    await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    await service.operator.revoke(key_id=(await service.operator.issue()).key.id)
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)
    shown = await command("keys", "count", "-w", "acme")
    assert shown.stdout.splitlines() == [
        "type\tstate\tkeys",
        "workspace\tactive\t2",
        "workspace\trevoked\t1",
        "user\tmember_removed\t1",
    ]
    counted = await command.json("keys", "count", "-w", "acme", "--state", "member_removed", "--state", "revoked")
    assert counted == {
        "counts": [
            {"type": "KEY_TYPE_WORKSPACE", "state": "KEY_STATE_REVOKED", "count": 1},
            {"type": "KEY_TYPE_USER", "state": "KEY_STATE_MEMBER_REMOVED", "count": 1},
        ]
    }
    assert await command.json("keys", "count", "-w", "acme", "--actor", "cyd") == {}


@ONLY_GRPCIO
async def test_who_issued_a_key_is_shown_with_their_kind(command: CommandLine) -> None:
    """A user may have the name of a caller."""
    await command("keys", "issue", "-w", "acme", "--all-hats", "--actor", "ada", "Slack Support Bot")
    key = (await command.json("keys", "list", "-w", "acme"))["keys"][0]
    assert key["created_by"] == {"kind": "PRINCIPAL_KIND_USER", "id": "ada"}
    await command("keys", "revoke", key["id"], "--yes")
    shown = (await command("keys", "show", key["id"])).stdout.splitlines()
    assert "hats\tall" in shown
    assert "state\trevoked" in shown
    assert next(line for line in shown if line.startswith("created\t")).endswith(" by user ada")
    assert next(line for line in shown if line.startswith("revoked\t")).endswith(" by caller operator")


async def test_a_token_is_not_sent_in_the_clear_to_other_machines(tmp_path: Path) -> None:
    """Without TLS only loopback is used, unless an option allows more; half a client certificate is refused."""
    (tmp_path / "token").write_text("some-token")
    elsewhere = {"SKILDER_KEYS_SERVER": "192.0.2.1:50051", "SKILDER_KEYS_TOKEN_FILE": "token"}
    done = await asyncio.to_thread(run_command, "workspace", "list", folder=tmp_path, **elsewhere)
    assert (done.returncode, "is not loopback" in done.stderr) == (2, True)
    half = ("workspace", "list", "--tls", "--client-cert", "token")
    done = await asyncio.to_thread(run_command, *half, folder=tmp_path, **elsewhere)
    assert (done.returncode, "go together" in done.stderr) == (2, True)


async def test_names_are_shown_as_they_are(command: CommandLine, service: Service) -> None:
    """A hat's name is never markup, whatever is in it."""
    workspace = small_workspace()
    workspace.hats[0].name = "Ops [/x] [bold]"
    await service.operator.apply(workspace)
    issued = await service.operator.issue()
    granted = await command("authorize", stdin=issued.token)
    assert (granted.returncode, "Ops [/x] [bold]" in granted.stdout) == (0, True)


@ONLY_GRPCIO
async def test_a_destructive_command_needs_a_terminal_or_yes(command: CommandLine) -> None:
    """Nobody can be asked here, so nothing is deleted or revoked."""
    issued = await command("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    key_id = (await command.json("keys", "list", "-w", "acme"))["keys"][0]["id"]
    for arguments in (("workspace", "delete", "acme"), ("keys", "revoke", key_id), ("keys", "revoke", "--token")):
        refused = await command(*arguments, stdin=issued.stdout)
        assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert (await command("authorize", stdin=issued.stdout)).returncode == 0


@ONLY_GRPCIO
async def test_an_error_names_the_flag(command: CommandLine) -> None:
    """Users type flags and do not know the API's fields. Invalid text is refused before it is sent."""
    for arguments, message in (
        (("issue", "-w", "acme", "--all-hats", "--type", "user", "Bot"), "  --user is required"),
        (("issue", "-w", "a b", "--type", "runtime", "Bot"), "  --runtime is required"),
        (("issue", "-w", "acme", "--hat", "everyone", "--hat", "none", "Bot"), "  --hat (number 2) names"),
        (("issue", "-w", "acme", "--all-hats", ""), "  description is required"),
        (("issue", "-w", "acme", "--all-hats", "--request-id", "a b", "Bot"), "  --request-id "),
        (("issue", "-w", "acme", "Bot"), "give either --hat, once for each hat that the key may reach, or --all-hats"),
        (("issue", "-w", "acme", "--hat", "everyone", "--all-hats", "Bot"), "give either --hat, "),
        (
            ("issue", "-w", "acme", "--type", "runtime", "--runtime", "r", "--all-hats", "Bot"),
            "  --all-hats must be empty: a runtime key has no tools",
        ),
        (
            ("issue", "-w", "acme", "--type", "runtime", "--runtime", "r", "--hat", "everyone", "Bot"),
            "  --hat must not be set: a runtime key has no tools",
        ),
        (("list", "-w", "acme", "--user", "bob", "--user", " "), "  --user (number 2) is"),
        (("count", "-w", "acme", "--user", "bob", "--user", " "), "  --user (number 2) is"),
        (("list", "-w", "\udcff"), "--workspace is not text in this terminal's encoding: '\\udcff'"),
        (("show", "0198"), "--workspace"),
    ):
        done = await command("keys", *arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done


async def test_a_message_that_is_too_large_is_no_outage(command: CommandLine) -> None:
    """The request has to change, so the exit code is 2, not 6."""
    done = await command("keys", "issue", "-w", "acme", "--all-hats", "x" * 100_000)
    assert (done.returncode, "larger than the service accepts" in done.stderr) == (2, True), done.stderr[:500]


@ONLY_GRPCIO
async def test_a_key_is_found_by_its_hint_or_the_beginning_of_its_id(command: CommandLine, service: Service) -> None:
    """In its workspace. If several keys match, the command refuses and shows them."""
    keys = [(await service.operator.issue(description=f"Bot {number}")).key for number in range(3)]
    in_acme = ("-w", "acme")
    assert (await command.json("keys", "show", *in_acme, keys[0].hint))["id"] == keys[0].id
    assert (await command.json("keys", "show", *in_acme, keys[1].id[:30].upper()))["id"] == keys[1].id
    several = await command("keys", "revoke", *in_acme, "--yes", keys[0].id[:4])
    assert several.returncode == 2
    assert all(key.id in several.stderr and key.description in several.stderr for key in keys)
    assert (await command("keys", "revoke", *in_acme, "--yes", "WSK_none")).returncode == 4
    assert (await command("keys", "revoke", *in_acme, "--yes", keys[0].id[:3])).returncode == 2
    assert (await command.json("keys", "revoke", *in_acme, "--yes", keys[2].hint))["id"] == keys[2].id
    listed = (await command.json("keys", "list", *in_acme))["keys"]
    assert [key["state"] for key in listed] == ["KEY_STATE_REVOKED", "KEY_STATE_ACTIVE", "KEY_STATE_ACTIVE"]


@ONLY_GRPCIO
async def test_a_token_among_the_arguments_is_not_repeated(command: CommandLine, service: Service) -> None:
    """It is refused, and the right way to give it is shown."""
    token = (await service.operator.issue()).token
    for arguments in (("keys", "revoke", "--yes", token), ("authorize", token), ("keys", "show", token)):
        done = await command(*arguments)
        assert (done.returncode, token in done.stdout + done.stderr) == (2, False)


@ONLY_GRPCIO
async def test_a_list_is_never_cut_silently(command: CommandLine, sql: asyncpg.Connection[Any]) -> None:
    """The command reads all pages of the API; with --limit it says if there are more."""
    async with sql.transaction():
        for number in range(1001):
            await insert_key(sql, description=f"Bot {number}")
    assert len((await command.json("keys", "list", "-w", "acme"))["keys"]) == 1001
    assert len((await command("keys", "list", "-w", "acme")).stdout.splitlines()) == 1002
    few = await command("keys", "list", "-w", "acme", "--json", "--limit", "7")
    assert (len(json.loads(few.stdout)["keys"]), "There are more" in few.stderr) == (7, True)
    assert json.loads((await command("keys", "list", "-w", "acme", "--json", "--state", "revoked")).stdout) == {
        "keys": []
    }
