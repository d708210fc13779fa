"""Foreign text on its way to a terminal: made harmless, measured, and broken into lines."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from skilder_keys.cli.text import broken, has_colour, padded, visible

# Embeddings, overrides and isolates (UAX 9), which change how the text after them is read.
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def stream(encoding: str = "utf-8") -> io.TextIOWrapper:
    """Return a stream that is no terminal."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("a\0\x07\x7f\x9bb", "a\\x00\\x07\\x7f\\x9bb"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),
        ("a\u2066b\u2069\u2028\u2029", "a\\u2066b\\u2069\\u2028\\u2029"),
        ("a\ud800b", "a\\ud800b"),
        ("BANK\\alice", "BANK\\alice"),
        ("Ünïcode 東京 👩\u200d💻 שלום\u200f!", "Ünïcode 東京 👩\u200d💻 שלום\u200f!"),
    ],
)
def test_control_sequences_are_escaped(text: str, shown: str) -> None:
    """All other text is shown as it is."""
    assert visible(text, stream()) == shown


@given(st.text(st.characters()), st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]))
def test_no_text_is_harmful_or_fails(text: str, encoding: str) -> None:
    """In any encoding the result is one printable line without control characters."""
    shown = visible(text, stream(encoding))
    shown.encode(encoding)
    assert not [each for each in shown if unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not [
        each
        for each in shown
        if unicodedata.bidirectional(each)[:-1] in {"LR", "RL", "PD", "FS"}
        and len(unicodedata.bidirectional(each)) == 3
    ]
    assert len(shown.splitlines()) <= 1


def test_messages_keep_their_lines_where_asked() -> None:
    """Line breaks stay where the caller asks for them."""
    assert visible("one\n  two\x1b", stream(), lines=True) == "one\n  two\\x1b"


@given(st.text(st.sampled_from("ab 東👍e\u0301")), st.integers(2, 30))
def test_broken_lines_fit(text: str, width: int) -> None:
    """Nothing is lost except spaces at line ends."""
    lines = broken(text, width, cut=True)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(padded(line, width)) == width for line in lines)


@given(st.text(st.sampled_from("ab 東")), st.integers(2, 30))
def test_words_stay_whole_unless_cutting_is_allowed(text: str, width: int) -> None:
    """So an id can be copied."""
    assert " ".join(broken(text, width, cut=False)).split() == text.split()


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": ""}, False),
        ({"FORCE_COLOR": "3", "TERM": "dumb"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": ""}, True),
    ],
)
def test_colour_in_a_pipe_must_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *, coloured: bool
) -> None:
    """NO_COLOR wins over FORCE_COLOR; an empty variable counts as unset."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colour(stream()) is coloured
