"""The README's options and exit codes match the code."""

from __future__ import annotations

import re

from skilder_keys.cli.exits import Exit
from tests.support.readme import README, with_options


def test_the_table_of_options_is_up_to_date() -> None:
    """Every setting with its flag, variable and default."""
    text = README.read_text("utf-8")
    assert text == with_options(text), "run `make docs`"


def test_every_exit_code_is_in_the_readme() -> None:
    """No more and no fewer."""
    reported = re.findall(r"^\| (\d+) \| ", README.read_text("utf-8"), re.MULTILINE)
    assert [int(code) for code in reported] == [int(code) for code in Exit]
