"""Every link, anchor and file name in the documents leads somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.links import DOCUMENTS, ROOT, anchors, faults, links, named_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_points_at_what_is_there(document: Path) -> None:
    """Links, anchors, and files of this repository that are named in backticks."""
    assert list(faults(document)) == []


def test_every_page_can_be_found() -> None:
    """From the README, by links to it or to its folder."""
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in found or document.suffix != ".md":
            continue
        found.add(document)
        targets = (target.partition("#")[0] for target in links(document.read_text("utf-8")))
        paths = ((document.parent / target).resolve() for target in targets if target and ":" not in target)
        waiting += [page for path in paths for page in (path.glob("*.md") if path.is_dir() else [path])]
    assert {path for path in DOCUMENTS if path.is_relative_to(ROOT / "docs")} <= found


def test_what_points_at_nothing_is_found(tmp_path: Path) -> None:
    """A missing file, a missing heading, a missing file in backticks; not what stands in a block of code."""
    (tmp_path / "there.md").write_text("# The `fence`, and why?\n\n## Twice\n\n## Twice\n")
    document = tmp_path / "page.md"
    document.write_text(
        "# Page\n"
        "[1](there.md) [2](there.md#the-fence-and-why) [3](#page) [4](https://example.com/x.md) [5](there.md#twice-1)\n"
        "[6](gone.md) ![7](gone.svg) [8](there.md#gone) [9](#gone)\n"
        "`README.md` `rpc/gone.py` `docs/` `gone/folder/` `data/operator-token` `application/json` `*.py`\n"
        "```sh\ncat [10](gone.md) `gone.py`\n```\n"
    )
    assert list(faults(document)) == [
        "the link gone.md leads to no file",
        "the link gone.svg leads to no file",
        "the link there.md#gone leads to no heading",
        "the link #gone leads to no heading",
        "`rpc/gone.py` is no file of this repository",
        "`gone/folder/` is no file of this repository",
    ]


def test_headings_become_anchors_as_on_github(tmp_path: Path) -> None:
    """Lower case, no punctuation, a hyphen for each space; a number where one stands twice."""
    document = tmp_path / "page.md"
    document.write_text(
        "# What `keys issue` does: A, B & C\n\n```sh\n# no heading\n```\n\n## [Link](x.md) to_it\n\n## A\n\n## A\n"
    )
    assert anchors(document) == {"what-keys-issue-does-a-b--c", "link-to_it", "a", "a-1"}
    assert named_files("`a.py`\n```\n`b.py`\n```\n") == ["a.py"]
