"""Commands in pipes and shells: what they write where, and how they end when they cannot write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import by_form

if TYPE_CHECKING:
    from tests.environment.conftest import Surroundings

WRITING = ["authorize", "authorize --json", "keys list -w acme", "--help"]
STDERR_CLOSED = "skilder-keys authorize --server 127.0.0.1:1 < key.token 2>&1 >/dev/null | true; echo ${PIPESTATUS[0]}"


async def test_a_piped_table_is_one_line_a_row(surroundings: Surroundings) -> None:
    """With tabs between the columns, no padding and no colour, at any terminal width."""
    done = await surroundings.run("keys", "list", "-w", "acme", COLUMNS="20")
    heading, *rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert heading == ["key", "hint", "for", "description", "state", "created", "expires", "last used", "attention"]
    assert [row[:2] + row[3:4] for row in rows] == [[key.id, key.hint, key.description] for key in surroundings.keys]


async def test_forced_colour_adds_nothing_but_colour(surroundings: Surroundings) -> None:
    """NO_COLOR wins over FORCE_COLOR."""
    arguments = ("keys", "list", "-w", "acme")
    plain = (await surroundings.run(*arguments)).stdout
    coloured = (await surroundings.run(*arguments, FORCE_COLOR="1")).stdout
    assert coloured != plain
    assert re.sub(rb"\x1b\[[0-9;]*m", b"", coloured) == plain
    assert (await surroundings.run(*arguments, FORCE_COLOR="1", NO_COLOR="1")).stdout == plain


@pytest.mark.parametrize(
    "arguments", by_form(["authorize", "keys list -w acme", "--help"], [*WRITING, "workspace show acme", "keys --help"])
)
async def test_a_closed_pipe_is_no_decision(surroundings: Surroundings, arguments: str) -> None:
    """The command ends quietly, with the exit code that shells give for SIGPIPE."""
    script = f'skilder-keys {arguments} < key.token | true; echo "${{PIPESTATUS[0]}}"'
    done = await surroundings.shell(script)
    assert (done.stdout.strip(), done.stderr) == ("141", "")


async def test_grep_finds_the_decision(surroundings: Surroundings) -> None:
    """It may stop reading before or after all is written; neither looks like a denial."""
    script = 'skilder-keys authorize < key.token | grep -q granted; echo "${PIPESTATUS[@]}"'
    done = await surroundings.shell(script)
    assert done.stdout in {"0 0\n", "141 0\n"}
    assert done.stderr == ""


async def test_a_closed_standard_error_is_no_decision(surroundings: Surroundings) -> None:
    """An error that could not be shown has another exit code, but not that of a decision."""
    assert (await surroundings.shell(STDERR_CLOSED)).stdout == "141\n"


@pytest.mark.parametrize("arguments", by_form(["authorize", "--help"], WRITING))
async def test_a_full_disk_has_an_exit_code(surroundings: Surroundings, arguments: str) -> None:
    """One of its own."""
    done = await surroundings.shell(f"skilder-keys {arguments} < key.token > /dev/full")
    assert (done.returncode, done.stderr) == (74, "Error: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("options", by_form([""], ["", "--json"]))
async def test_a_lost_token_can_be_replaced(surroundings: Surroundings, options: str) -> None:
    """The same request id issues no second key, but a new token of the first."""
    issue = f"skilder-keys keys issue -w acme --all-hats {options} 'Lost {options}'"
    lost = await surroundings.shell(f"{issue} > /dev/full")
    assert lost.returncode == 74
    found = re.search(r"--request-id \S+", lost.stderr)
    assert found, lost.stderr
    again = await surroundings.shell(f"{issue} {found[0]}")
    assert (again.returncode, "WSK_" in again.stdout) == (0, True)
    piped = await surroundings.shell(f"{issue} | true; exit ${{PIPESTATUS[0]}}")
    assert (piped.returncode, "--request-id" in piped.stderr) == (141, True)
    listed = await surroundings.run("keys", "list", "-w", "acme")
    assert listed.stdout.decode().count(f"Lost {options}\t") == 2


async def test_closed_streams_are_reported(surroundings: Surroundings) -> None:
    """Nothing crashes or is lost silently, and no connection gets a standard stream's number."""
    no_input = await surroundings.shell("skilder-keys authorize <&-")
    assert (no_input.returncode, "no token was given" in no_input.stderr) == (2, True)
    no_output = await surroundings.shell("skilder-keys authorize < key.token >&-")
    assert (no_output.returncode, no_output.stderr) == (74, "Error: cannot write to standard output: it is closed\n")
    no_error = await surroundings.shell("skilder-keys authorize < key.token 2>&-")
    assert (no_error.returncode, no_error.stdout.startswith("granted")) == (0, True)
    nothing = await surroundings.shell("skilder-keys keys list -w acme <&- >&- 2>&-")
    assert nothing.returncode == 74
    refused = await surroundings.shell("skilder-keys keys issue -w acme --all-hats Unheard >&-")
    assert (refused.returncode, "no key was issued" in refused.stderr) == (2, True)
    assert b"Unheard" not in (await surroundings.run("keys", "list", "-w", "acme")).stdout


async def test_a_token_is_read_before_the_input_ends(surroundings: Surroundings) -> None:
    """The writer of a pipe may keep it open."""
    script = "mkfifo held; exec 3<>held; cat key.token >&3; echo >&3; timeout 50 skilder-keys authorize <held"
    done = await surroundings.shell(script)
    assert (done.returncode, done.stdout[:7]) == (0, "granted")


async def test_without_a_terminal_nothing_is_asked(surroundings: Surroundings) -> None:
    """A destructive command needs --yes, also where standard input is closed."""
    for arguments in (f"keys revoke {surroundings.keys[0].id}", "workspace delete acme"):
        for stdin in ("</dev/null", "<&-"):
            done = await surroundings.shell(f"skilder-keys {arguments} {stdin}")
            assert (done.returncode, "--yes" in done.stderr) == (2, True), done
