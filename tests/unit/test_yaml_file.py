"""The loader of YAML files: its bounds, how it reads values, and the lines in its errors."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from skilder_keys.yaml_files import reader
from skilder_keys.yaml_files.reader import Mapping, Node, Scalar, Sequence, YamlFileError, parse, read_file
from skilder_keys.yaml_files.scalars import Kind, dump

if TYPE_CHECKING:
    from pathlib import Path

HALF = "an escape names U+D800, half of a surrogate pair, which is not a character: leave it out"
PARSERS = [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)]


@pytest.fixture(params=PARSERS, ids=["python", "libyaml"])
def each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with both of PyYAML's parsers, since a machine may have either."""
    monkeypatch.setattr(reader, "PARSER", request.param)


def content(node: Node) -> Any:
    """Return a node as plain lists, dictionaries and texts."""
    if isinstance(node, Mapping):
        return {key: content(value) for key, value in node.items.items()}
    return [content(item) for item in node.items] if isinstance(node, Sequence) else node.text


def refusal(text: str | bytes) -> str:
    """Return why a file is refused."""
    with pytest.raises(YamlFileError) as caught:
        parse("f", text if isinstance(text, bytes) else text.encode())
    assert len(str(caught.value)) < 300
    return str(caught.value).removeprefix("f:")


def bomb(levels: int, leaf: str = "x") -> str:
    """Return a small file whose aliases stand for 9 ** levels values."""
    lines = [f"a0: &a0 [{','.join([leaf] * 9)}]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.usefixtures("each_parser")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "5: c occurs twice, first in line 3"),
        ("- {a: 1, a: 1}", "1: a occurs twice, first in line 1"),
        ('id: x\n"id": y', "2: id occurs twice, first in line 1"),
        ("id: x\n? id\n: y", "2: id occurs twice, first in line 1"),
        ('{"a": {"b": [{"c": 1,\n"c": 2}]}}', "2: c occurs twice, first in line 1"),
        ("x: &x {a: b}\ny:\n  <<: *x\n  <<: *x\n", "4: << occurs twice, first in line 3"),
        ("x: &x {a: b}\ny: &y {a: c}\nz:\n  <<: [*x, *y]\n", "4: a is in two of the mappings that << merges"),
        ("x:\n  <<: text\n", "2: << merges mappings only"),
        ("a: b\n---\nc: d\n", "2: a second document begins here: put it into a file of its own"),
        ("a: b\n---\n", "2: a second document begins here: put it into a file of its own"),
        ("a: &a [*a]", "1: an alias is inside the value that it names"),
        ("a:\n- *b", "2: an alias names an anchor that does not exist"),
        ("1: a", "1: a key is not a text: quote it, or write `key: value`"),
        ("a: b\nno: c", "2: a key is not a text: quote it, or write `key: value`"),
        ("? [a]\n: b", "1: a key is not a text: quote it, or write `key: value`"),
        ("a: !!python/name:os.system x", "1: a tag (!) is not supported: leave it out"),
        ("a: !own {b: c}", "1: a tag (!) is not supported: leave it out"),
        ("a: !!set {b, c}", "1: a tag (!) is not supported: leave it out"),
        ("a: !!binary aGk=", "1: a tag (!) is not supported: leave it out"),
        ("a: b\nc: \x1b[31m", "2: contains the character U+001B ESCAPE: leave it out"),
        ("a: \x00", "1: contains the character U+0000 NULL: leave it out"),
        ('a: "\\ud800"', f"1: is not YAML: {HALF}"),
        ('{"a":\n "\\uD800"}', f"2: is not YAML: {HALF}"),
        ("", " is empty"),
        ("# only a remark\n", " is empty"),
        ("---\n...\n", " is empty"),
        (b"a: b\nc: caf\xe9", "2: byte 0xE9 is not UTF-8: save the file as UTF-8"),
        ("[" * 100_000, "1: is more than 32 levels deep"),
        ("{a," * 100_000, "1: is more than 32 levels deep"),
        ("- " * 33, "1: is more than 32 levels deep"),
    ],
)  # fmt: skip
def test_ambiguous_or_oversized_input_is_refused_with_its_line(text: str | bytes, message: str) -> None:
    """The loader never guesses, since the author may have meant something else."""
    assert refusal(text) == message


@pytest.mark.usefixtures("each_parser")
@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\ta: b", "a: 'b", "a: *", "%YAML 7.0\n---\na: b", "@a", "a: \\\n- b"]
)
def test_text_that_is_not_yaml_is_refused_with_its_line(text: str) -> None:
    """In a few words and without the text itself, which may be a misplaced token."""
    message = refusal(text)
    assert message.split(":")[0].isdigit()
    assert "is not YAML" in message


@pytest.mark.parametrize("text", [bomb(9), bomb(20), bomb(4, "&l " + "l" * 40_000)], ids=["9", "20", "long texts"])
def test_aliases_are_bounded_before_they_are_expanded(text: str) -> None:
    """A few hundred bytes never take gigabytes: an alias counts as much as what it stands for."""
    tracemalloc.start()
    try:
        assert "its aliases expanded" in refusal(text)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_aliases_within_the_bounds_are_accepted() -> None:
    """An anchor may be used several times, and a mapping may be merged into others that override it."""
    found = parse("f", b"a: &a [x, y]\nb: *a\nc: &c {k: 1, l: 2}\nd: {<<: *c, k: 3}\ne: {<<: [{m: 1}, *c]}\n")
    assert content(found) == {
        "a": ["x", "y"],
        "b": ["x", "y"],
        "c": {"k": "1", "l": "2"},
        "d": {"k": "3", "l": "2"},
        "e": {"m": "1", "k": "1", "l": "2"},
    }


def test_the_number_of_values_and_bytes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bound a file passes, one beyond it does not; a stream is not read further than that."""
    monkeypatch.setattr(reader, "MAX_VALUES", 5)
    assert content(parse("f", b"[a, b, c, d]")) == ["a", "b", "c", "d"]
    assert refusal("[a, b, c, d,\n e]").startswith("2: the file has more than 5 values")
    monkeypatch.setattr(reader, "MAX_BYTES", 2**20)
    stream = io.BytesIO(b"a" * 2**22)
    with pytest.raises(YamlFileError, match=r"^f: has more than 1 MiB$"):
        reader.read_stream("f", stream)
    assert stream.tell() == 2**20 + 1


KINDS = {
    Kind.NUMBER: "0 7 -3 +49123 0104233 0899 1_000 1e3 12e03 1.5 1. .5 1.5e-3 0x1F 0o17 0b101 017 12:30 "
    "1:2:3.5 .inf -.INF .nan " + "7" * 64,
    Kind.TRUTH: "true false True FALSE yes No ON off",
    Kind.DATE: "2026-11-25 2026-11-25T10:00:00Z 2026-1-5t1:02:03.5+01:00",
    Kind.NOTHING: "null Null NULL ~",
    Kind.TEXT: "a y n nullo truth 1.2.3 10.0.0.1 1a 0xg 12:99 2026-11 = e3 1e +a auth0|5f 00-1 yes! 07:ab .x _1 1-2",
}  # fmt: skip


@pytest.mark.usefixtures("each_parser")
@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in KINDS.items() for text in texts.split()])
def test_unquoted_scalars_are_what_any_version_of_yaml_reads(kind: Kind, text: str) -> None:
    """In quotes, in a block or with a text tag they are texts, kept exactly as written."""
    assert parse("f", f"- {text}".encode()) == Sequence(1, [Scalar(1, kind, text)])
    for written in (f"'{text}'", f'"{text}"', f"!!str {text}", f"! {text}", f"|-\n  {text}"):
        found = parse("f", f"- {written}".encode())
        assert isinstance(found, Sequence)
        assert found.items == [Scalar(1, Kind.TEXT, text)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_files_of_any_system_are_read(encoding: str, tmp_path: Path) -> None:
    """With a byte order mark, Windows line breaks or UTF-16; blocks end their lines with line feeds."""
    path = tmp_path / "f.yaml"
    path.write_bytes("# hé\r\nname: Rocket 🚀\r\ntext: |\r\n  one\r\n  two\r\n".encode(encoding))
    found = read_file(path)
    assert content(found) == {"name": "Rocket 🚀", "text": "one\ntwo\n"}
    assert isinstance(found, Mapping)
    assert found.lines == {"name": 2, "text": 3}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With the operating system's error."""
    with pytest.raises(YamlFileError, match=r"gone: No such file or directory$"):
        read_file(tmp_path / "gone")
    with pytest.raises(YamlFileError, match=r"Is a directory$"):
        read_file(tmp_path)


CHARACTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    CHARACTERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CHARACTERS, inner, max_size=3), max_leaves=8
).filter(lambda value: not isinstance(value, str))


@given(JSON, st.booleans(), st.sampled_from([None, 2, "\t"]))
def test_json_is_read_as_json(value: Any, ascii_only: bool, indent: Any) -> None:  # noqa: FBT001
    """With escaped characters, surrogate pairs or plain characters, and with tabs between values."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if "<<" not in text:  # a key that merges
        assert content(parse("f", text.encode())) == value


@pytest.mark.usefixtures("each_parser")
@pytest.mark.parametrize("text", [text for texts in KINDS.values() for text in texts.split()] + [
    "", " a ", "a\nb\n", "a\r\nb", "\x85", "a\u2028b", "\ufeff", "a\uffff", "a: b", "- a", "#",
    "<<", "'\"\\", "\U0001fae9", "x" * 200,
])  # fmt: skip
def test_a_written_text_is_read_back_unchanged(text: str) -> None:
    """It stays a text, whatever YAML would read without quotes."""
    assert content(parse("f", dump({"a": [{"b": text}]}).encode())) == {"a": [{"b": text}]}
    found = parse("f", dump(text).encode())
    assert isinstance(found, Scalar)
    assert found.kind is Kind.TEXT


@given(CHARACTERS)
def test_any_text_survives_writing_and_reading(text: str) -> None:
    """Control characters too, which only an older or newer version may accept."""
    assert content(parse("f", dump([text]).encode())) == [text]
