"""What the documents say about options, exit codes, the API and its errors matches the code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from skilder_keys.cli.exits import Exit
from skilder_keys.rpc.status import STATUS_CODES
from tests.docs import contract, errors
from tests.docs.links import ROOT, anchors
from tests.docs.pages import PAGES, replace_part
from tests.support.calls import METHODS

if TYPE_CHECKING:
    from tests.docs.contract import Element
    from tests.docs.pages import Page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.name)
def test_the_generated_parts_are_up_to_date(page: Page) -> None:
    """The committed text is what the generator writes."""
    assert page.path.read_text("utf-8") == page.generated(), "run `make docs`"


def test_a_part_without_a_place_is_an_error() -> None:
    """Otherwise it would be missing in the document."""
    text = "a\n<!-- one: written -->\nold\n<!-- end of one -->\nb\n"
    assert replace_part(text, "one", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="0 times"):
        replace_part(text, "other", "new")


def test_the_contract_is_read_whole() -> None:
    """Every method and every element has a comment and a place in the reference."""
    services, messages, enums = contract.services(), contract.messages(), contract.enums()
    assert {f"{service.name}/{method.name}" for service in services for method in service.methods} == set(METHODS)
    assert {method.request for service in services for method in service.methods} <= set(messages)
    methods = [method for service in services for method in service.methods]
    fields = [field for message in messages.values() for field in message.fields]
    values = [value for enum in enums.values() for value in enum.values]
    assert len(fields) > 80
    with_headings: list[Element] = [*services, *methods, *messages.values(), *enums.values()]
    assert all(element.comment for element in (*with_headings, *fields, *values))
    assert {element.name.lower() for element in with_headings} <= anchors(ROOT / "docs" / "api.md")


def test_every_method_that_is_not_simply_sent_again_has_advice() -> None:
    """In the table of retries, to which the table of deadlines refers."""
    page = (ROOT / "docs" / "api.md").read_text()
    referring = set(re.findall(r"\[`(\w+)`\]\(#\w+\) \|[^|]*\| Not by itself", page))
    retries = page.partition("### Retries")[2].partition("### ")[0]
    assert referring
    assert referring <= set(re.findall(r"^\| `(\w+)`", retries, re.MULTILINE))


def test_every_error_has_advice() -> None:
    """And no advice is about anything else."""
    assert set(errors.advice()) == {kind.reason for kind in STATUS_CODES}
    methods = {method for advice in errors.advice().values() for method in advice.requests}
    assert methods <= set(METHODS)


def test_every_exit_code_is_listed() -> None:
    """No more and no fewer."""
    listed = re.findall(r"^\| (\d+) \| ", (ROOT / "docs" / "command-line.md").read_text("utf-8"), re.MULTILINE)
    assert [int(code) for code in listed] == [int(code) for code in Exit]
