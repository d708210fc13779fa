"""What `make bench` writes into the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import report
from bench.changes_table import COLUMNS, LINES
from bench.plot import Bar, Curve
from bench.report import CHANGES_MARKS, DETAILS, MARKS, PAGE, Report, ratio_row
from bench.rounds import Spread
from bench.sides import ENVOY, GRPCIO, NAIVE, NOTHING
from tests.docs.pages import replace_part

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_pages_have_a_place_for_the_results() -> None:
    """One each."""
    for page in (PAGE, DETAILS):
        assert "\nnew\n" in replace_part(page.read_text("utf-8"), MARKS, "new")
    assert "\nnew\n" in replace_part(PAGE.read_text("utf-8"), CHANGES_MARKS, "new")


def test_results_are_written_into_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits into the one, the rest into the other; what people wrote stays."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    for name in ("PAGE", "DETAILS", "PLOT"):
        monkeypatch.setattr(report, name, tmp_path / name)
    for name in ("PAGE", "DETAILS"):
        (tmp_path / name).write_text(f"by people\n<!-- {MARKS}: written -->\nold\n<!-- end of {MARKS} -->\nthe end\n")
    found = Report(curves=[Curve("a case", [100.0, 200.0])], bars=[Bar("a case", 100, 10)])
    found.add(ratio_row("one to the other", Spread(1.5, 1.25, 1.75), 2, {}))
    found.compare("one to the other", "ratio", 12.5)
    found.add(ratio_row("what one has", Spread(1.5, 1.25, 1.75), 1, {}))
    found.note("A note.")
    found.write_pages(3)
    page, details = ((tmp_path / name).read_text("utf-8") for name in ("PAGE", "DETAILS"))
    assert "| one to the other | at most 2.00 | **1.50** | 1.25 to 1.75 | yes | 12.50 |" in page
    assert f"| what one has | at most 1.00 | **1.50** | 1.25 to 1.75 | **no** | {NOTHING} |" in page
    assert "A note." in details
    assert (tmp_path / "PLOT").read_text("utf-8").startswith("<svg")
    for text in (page, details):
        assert text.startswith("by people\n")
        assert text.endswith("the end\n")
        assert "Of 3 rounds." in text
        assert "old" not in text


def test_the_table_of_changes_is_written_with_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value beyond its limit is bold, unless it is the naive application's, to which no limit applies."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "PAGE")
    monkeypatch.setattr(report, "CHANGE_PICTURE", tmp_path / "PICTURE")
    page = tmp_path / "PAGE"
    page.write_text(f"by people\n<!-- {CHANGES_MARKS}: written -->\nold\n<!-- end of {CHANGES_MARKS} -->\nthe end\n")
    found = Report(timeline=[(-0.05, 1.0, 2.0), (0.05, 1.5, 30.0)])
    found.write_changes()
    assert "old" in page.read_text("utf-8")
    found.changes.add("rate", ENVOY, 5000)
    found.changes.add("a member added", ENVOY, 2.5)
    found.changes.add("a member added", GRPCIO, 3.5)
    found.changes.add("a member added", NAIVE, 3.5)
    found.changes.add("first sight", ENVOY, 1400)
    found.write_changes()
    text = page.read_text("utf-8")
    line = LINES["a member added"]
    assert f"| {line.name} | at most 3.00 | 2.50 | **3.50** | 3.50 |" in text
    assert f"| {LINES['first sight'].name} | at least 1,500 | **1,400** | {NOTHING} | {NOTHING} |" in text
    assert text.startswith("by people\n")
    assert "old" not in text
    assert all(f"| {each.name} |" in text for each in LINES.values())
    assert all(column in text for column in COLUMNS)
    assert "5,000 calls a second" in (tmp_path / "PICTURE").read_text("utf-8")


def test_what_was_not_seen_to_end_took_longer() -> None:
    """It has no number, and misses its limit."""
    found = Report()
    found.changes.add("restart", ENVOY, float("inf"))
    assert f"| {LINES['restart'].name} | at most 30 s | **longer** | {NOTHING} | {NOTHING} |" in found.changes.text()
    (record,) = found.changes.records()
    assert record["value"] is None
    assert not record["met"]
