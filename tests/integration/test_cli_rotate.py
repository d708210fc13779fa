"""keys rotate, keys revoke --family and keys issue --previous-keys, as people and scripts use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import CommandLine
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT


@pytest.fixture
def command(service: Service, tmp_path: Path) -> CommandLine:
    """The command line, with the small workspace applied."""
    return CommandLine(service, tmp_path)


async def test_a_rotation_shows_the_new_token_alone(command: CommandLine) -> None:
    """On standard output; on standard error the new key, and how long the old one works."""
    issued = await command.json("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    old = issued["key"]
    rotated = await command("keys", "rotate", old["hint"], "-w", "acme", "--grace", "3d", "--expires-in", "90d")
    assert rotated.returncode == 0, rotated.stderr
    assert len(rotated.stdout.strip()) == 75
    assert rotated.stdout.strip() not in rotated.stderr
    assert f"follows      {old['id']}" in rotated.stderr.replace("\t", "      ")
    assert f"The old key, {old['id']}, works until 20" in rotated.stderr
    for token in (issued["token"], rotated.stdout):
        assert (await command("authorize", stdin=token)).stdout.startswith("granted")
    shown = await command.json("keys", "show", old["id"])
    again = await command("keys", "rotate", old["id"])
    assert again.returncode == 5
    assert shown["successor_id"] in again.stderr


async def test_a_rotation_as_json(command: CommandLine) -> None:
    """The API's own document, with both keys."""
    issued = await command.json("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    rotated = await command.json("keys", "rotate", issued["key"]["id"], "--grace", "0s", "--request-id", "r-1")
    assert rotated["key"]["predecessor_id"] == rotated["predecessor"]["id"] == issued["key"]["id"]
    assert rotated["predecessor"]["state"] == "KEY_STATE_EXPIRED"
    again = await command.json("keys", "rotate", issued["key"]["id"], "--grace", "0s", "--request-id", "r-1")
    assert (again["key"], again["token"] == rotated["token"]) == (rotated["key"], False)
    ended = await command("keys", "rotate", issued["key"]["id"])
    assert ended.returncode == 5
    assert "is expired, and only an active key is rotated" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--grace", "40d"), "--grace is 40 days; 0 s to 30 days are allowed"),
        (("--grace", "soon"), "'soon' is not a length of time"),
        (("--expires-in", "9999w"), "--expires-in is 69993 days; 1 s to 3653 days are allowed"),
        (("--expires-at", "2020-01-01"), "--expires-at is 2020-01-01T00:00:00+00:00, which is past"),
        (("--expires-in", "1d", "--expires-at", "2090-01-01"), "give --expires-in or --expires-at, not both"),
    ],
)
async def test_mistakes_are_named_by_their_options(
    command: CommandLine, arguments: tuple[str, ...], fault: str
) -> None:
    """And end with 2."""
    issued = await command.json("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    done = await command("keys", "rotate", issued["key"]["id"], *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert fault in done.stderr
    assert "successor_id" not in await command.json("keys", "show", issued["key"]["id"])


async def test_a_family_is_revoked(command: CommandLine) -> None:
    """By any of its keys or tokens; the others are named."""
    first = await command.json("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    second = await command.json("keys", "rotate", first["key"]["id"])
    done = await command("keys", "revoke", first["key"]["id"], "--family", "--yes", "--reason", "stolen")
    assert f"Revoked with it: {second['key']['id']}" in done.stderr
    for token in (first["token"], second["token"]):
        assert (await command("authorize", stdin=token)).stdout.startswith("denied revoked")
    third = await command.json("keys", "issue", "-w", "acme", "--all-hats", "Slack Support Bot")
    fourth = await command.json("keys", "rotate", third["key"]["id"])
    await command("keys", "revoke", "--token", "--family", "--yes", stdin=third["token"])
    assert (await command("authorize", stdin=fourth["token"])).stdout.startswith("denied revoked")


async def test_a_runtime_that_has_keys_needs_a_word_about_them(command: CommandLine) -> None:
    """The message names the option."""
    order = ("keys", "issue", "-w", "acme", "--type", "runtime", "--runtime", "runtime-7", "Runtime 7")
    first = await command(*order)
    refused = await command(*order)
    assert refused.returncode == 5
    assert "set --previous-keys to keep or to revoke" in refused.stderr
    assert (await command(*order, "--previous-keys", "revoke")).returncode == 0
    assert (await command("authorize", stdin=first.stdout)).stdout.startswith("denied revoked")
