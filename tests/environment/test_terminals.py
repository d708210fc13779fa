"""Commands on terminals of every width, with prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from tests.support.screen import without_colours

if TYPE_CHECKING:
    from tests.environment.conftest import Surroundings


@pytest.mark.parametrize("width", [300, 160, 100, 80, 60, 40, 20])
async def test_ids_are_whole_at_every_width(surroundings: Surroundings, width: int) -> None:
    """Nothing else is wider than the terminal, so no line of a table wraps."""
    code, shown = await surroundings.terminal("keys", "list", "-w", "acme", width=width)
    shown = without_colours(shown)
    assert code == 0, shown
    for key in surroundings.keys:
        assert key.id in shown
        assert key.hint in shown
    whole = {word for key in surroundings.keys for word in (key.id, key.description)}
    for line in shown.splitlines():
        # Messages have no layout; on a narrow terminal a long word has a line to itself.
        assert cell_len(line) <= width or line in whole or line.startswith("Left out"), line


async def test_columns_stay_straight(surroundings: Surroundings) -> None:
    """Wide and combining characters count with the width they have on the screen."""
    _, shown = await surroundings.terminal("keys", "list", "-w", "acme", width=300)
    heading, *rows = without_colours(shown).splitlines()
    place = cell_len(heading[: heading.index("state")])
    assert len(rows) == len(surroundings.keys)
    for row in rows:
        assert cell_len(row[: row.index("active")]) == place


async def test_columns_that_are_left_out_are_named(surroundings: Surroundings) -> None:
    """At 80 columns there is no room for all."""
    _, shown = await surroundings.terminal("keys", "list", "-w", "acme", width=80)
    assert "Left out, as the terminal is too narrow: for, created, expires, last used, attention." in shown
    _, shown = await surroundings.terminal("keys", "list", "-w", "acme", width=300)
    assert "Left out" not in shown


async def test_a_key_is_shown_before_it_is_revoked(surroundings: Surroundings) -> None:
    """By id, by hint or by token; `no` leaves it as it is."""
    issued = await surroundings.service.operator.issue(description="The one that leaked")
    no = ("Go on?", "n")
    for arguments, answers in (
        ((issued.key.id,), [no]),
        (("-w", "acme", issued.key.hint), [no]),
        (("--token",), [("Token", issued.token), no]),
    ):
        code, shown = await surroundings.terminal("keys", "revoke", *arguments, width=80, answers=answers)
        assert (code, "The one that leaked" in shown, "caller operator" in shown) == (130, True, True), shown
        assert shown.index("The one that leaked") < shown.index("Go on?")
        assert issued.token not in shown
    assert (await surroundings.service.operator.authorize(issued.token)).HasField("granted")
    code, shown = await surroundings.terminal("keys", "revoke", issued.key.id, width=80, answers=[("Go on?", "y")])
    assert (code, "revoked" in shown) == (0, True), shown
    assert (await surroundings.service.operator.authorize(issued.token)).HasField("denied")


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"TERM": "dumb", "FORCE_COLOR": "1"}, True)],
)
async def test_colours_follow_the_terminal(
    surroundings: Surroundings, variables: dict[str, str], *, coloured: bool
) -> None:
    """NO_COLOR and FORCE_COLOR override that."""
    _, shown = await surroundings.terminal("keys", "show", surroundings.keys[0].id, width=80, answers=(), **variables)
    assert ("\x1b[" in shown) is coloured


async def test_every_help_fits_80_columns(surroundings: Surroundings) -> None:
    """And every command has one."""
    of_activity = ("usage", "activity list")
    keys = [f"keys {name}" for name in ("issue", "list", "count", "update", "rotate", "explain", "revoke")]
    for command in (
        "",
        "keys",
        *keys,
        *of_activity,
        "workspace apply",
        "workspace policy set",
        "authorize",
        "serve",
        "report",
        "top",
    ):
        _, shown = await surroundings.terminal(*command.split(), "--help", width=80)
        assert "Usage: " in shown
        assert max(map(cell_len, shown.splitlines())) <= 80
