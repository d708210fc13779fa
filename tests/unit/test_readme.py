"""What the README says of the options and exit codes is what they are."""

from __future__ import annotations

import re

from skilder_keys.cli.exits import Exit
from tests.support.readme import README, with_options


def test_the_table_of_options_is_up_to_date() -> None:
    """Every setting, its flag, its variable and its default."""
    text = README.read_text("utf-8")
    assert text == with_options(text), "run `make docs`"


def test_every_exit_code_is_told() -> None:
    """No more and no fewer."""
    reported = re.findall(r"^\| (\d+) \| ", README.read_text("utf-8"), re.MULTILINE)
    assert [int(code) for code in reported] == [int(code) for code in Exit]
