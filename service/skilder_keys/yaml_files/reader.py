"""Read YAML files that people write, within bounds and without guessing.

PyYAML's own loader uses the last of two equal keys, expands aliases without limit, and turns texts without quotes into
numbers, dates and booleans. This reader composes PyYAML's events into nodes that know their lines. It rejects what is
ambiguous. The caller decides which kind of value belongs where.

JSON is YAML, except for a few details, which `_as_yaml` converts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import yaml

from skilder_keys.domain.texts import named as character
from skilder_keys.yaml_files.scalars import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

MAX_BYTES = 32 * 2**20
MAX_VALUES = 1_000_000
"""The most values in a file, with its aliases expanded: twice as many as the largest workspace has."""
MAX_DEPTH = 32

# libyaml is ten times as fast. If PyYAML was built without it, its own parser makes the same events.
PARSER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_NO_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u([dD][89a-fA-F][0-9a-fA-F]{2})")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}|<<")
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)")
_JSON_ONLY = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class YamlFileError(Exception):
    """A file cannot be used. The message begins with the file and, if there is one, the line: `FILE:LINE:`."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value without parts.

    Attributes:
        line: Its line in the file, from 1.
        text: Its text as in the file, without quotes.
    """

    line: int
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Values by their keys; each key occurs once.

    Attributes:
        items: The value of each key.
        lines: The line of each key.
    """

    line: int
    items: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


Node: TypeAlias = Scalar | Sequence | Mapping


def read_file(path: Path) -> Node:
    """Read a file that holds one YAML or JSON document.

    Raises:
        YamlFileError: It cannot be read, exceeds a bound, is not YAML, or something in it is ambiguous.
    """
    try:
        with path.open("rb") as stream:
            return read_stream(str(path), stream)
    except OSError as error:
        raise YamlFileError(f"{path}: {error.strerror}") from None


def read_stream(name: str, stream: BinaryIO) -> Node:
    """Read a stream as `read_file` reads a file; error messages call it `name`."""
    return parse(name, stream.read(MAX_BYTES + 1))


def parse(name: str, data: bytes) -> Node:
    """Parse bytes as `read_file` parses a file; error messages call them `name`."""
    if len(data) > MAX_BYTES:
        raise YamlFileError(f"{name}: has more than {MAX_BYTES // 2**20} MiB")
    text = _as_yaml(_decoded(name, data))
    if match := _NO_YAML.search(text):
        line = text.count("\n", 0, match.start()) + 1
        raise YamlFileError(f"{name}:{line}: contains the character {character(match[0])}: leave it out")
    return _Composer(name, text).document()


def _decoded(name: str, data: bytes) -> str:
    """Decode UTF-8, UTF-16 or UTF-32, with or without a byte order mark (YAML 1.2, section 5.2; the same for JSON)."""
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fault = f"byte 0x{data[error.start]:02X} is not {encoding.removesuffix('-sig').upper()}"
        raise YamlFileError(f"{name}:{line}: {fault}: save the file as UTF-8") from None


def _as_yaml(text: str) -> str:
    r"""Return JSON as valid YAML, with the same lines; return other texts unchanged.

    YAML does not allow tabs between values, `\ud83d\ude80` for one character, and some characters that JSON allows
    without an escape.
    """
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    text = _JSON_ESCAPE.sub(_join_surrogates, text.replace("\t", " "))
    return _JSON_ONLY.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _join_surrogates(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return escape[0]
    code = 0x10000 + ((int(escape[1], 16) - 0xD800) << 10) + (int(escape[2], 16) - 0xDC00)
    return f"\\U{code:08x}"


class _Composer:
    """Composes events into nodes. It checks its bounds before it makes a node that would exceed them."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=PARSER)
        # The node of each anchor, with its number of values and of characters; None while it is being composed.
        self._anchors: dict[str, tuple[Node, int, int] | None] = {}
        self._values = 0
        self._characters = 0

    def document(self) -> Node:
        """Return the only document."""
        try:
            document: Node | None = None
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if document is not None:
                        self._reject(event, "a second document begins here: put it into a file of its own")
                    document = self._node(next(self._events), 1)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line if mark else 0
            fault = ": ".join(filter(None, (error.context, error.problem)))
            if "Unicode" in fault and (
                half := _SURROGATE_ESCAPE.search("".join(self._text.splitlines()[line : line + 1]))
            ):
                fault = _half_fault(int(half[1], 16))
            raise YamlFileError(f"{self._name}:{line + 1}: is not YAML: {fault}") from None
        except yaml.YAMLError:
            raise YamlFileError(f"{self._name}: is not YAML") from None
        if document is None or document == Scalar(document.line, Kind.NOTHING, ""):
            raise YamlFileError(f"{self._name}: is empty")
        return document

    def _reject(self, at: yaml.Event | int, fault: str) -> NoReturn:
        line = at if isinstance(at, int) else _line(at)
        raise YamlFileError(f"{self._name}:{line}: {fault}")

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            self._reject(event, f"is more than {MAX_DEPTH} levels deep")
        anchor = getattr(event, "anchor", None)
        before = self._values, self._characters
        if anchor is not None:
            self._anchors[anchor] = None
        self._grow(event, 1, 0)
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, depth)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(event, depth)
        else:  # pragma: no cover - the parser's grammar has no other event here
            raise TypeError(event)
        if anchor is not None:
            self._anchors[anchor] = node, self._values - before[0], self._characters - before[1]
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        if event.anchor not in self._anchors:
            self._reject(event, "an alias names an anchor that does not exist")
        anchor = self._anchors[event.anchor]
        if anchor is None:
            self._reject(event, "an alias is inside the value that it names")
        node, values, characters = anchor
        self._grow(event, values, characters)
        return node

    def _grow(self, event: yaml.Event, values: int, characters: int) -> None:
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES:
            self._reject(event, f"the file has more than {MAX_VALUES:,} values from here on, with its aliases expanded")
        if self._characters > MAX_BYTES:
            self._reject(event, f"the file has more than {MAX_BYTES:,} characters, with its aliases expanded")

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        self._grow(event, 0, len(event.value))
        if half := _SURROGATE.search(event.value):
            self._reject(event, f"is not YAML: {_half_fault(ord(half[0]))}")
        self._require_tag(event, "str")
        kind = kind_of(event.value) if event.tag is None and event.implicit[0] else Kind.TEXT
        return Scalar(_line(event), kind, event.value)

    def _sequence(self, event: yaml.SequenceStartEvent, depth: int) -> Sequence:
        self._require_tag(event, "seq")
        sequence = Sequence(_line(event))
        while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
            sequence.items.append(self._node(inner, depth + 1))
        return sequence

    def _mapping(self, event: yaml.MappingStartEvent, depth: int) -> Mapping:
        self._require_tag(event, "map")
        mapping = Mapping(_line(event))
        merged: Node | None = None
        while not isinstance(inner := next(self._events), yaml.MappingEndEvent):
            line = _line(inner)
            key = self._node(inner, depth + 1)
            if not isinstance(key, Scalar) or key.kind is not Kind.TEXT:
                self._reject(line, "a key is not a text: quote it, or write `key: value`")
            if key.text in mapping.lines:
                self._reject(line, f"{named(key.text)} occurs twice, first in line {mapping.lines[key.text]}")
            mapping.lines[key.text] = line
            value = self._node(next(self._events), depth + 1)
            if key.text == _MERGE:
                merged = value
            else:
                mapping.items[key.text] = value
        if merged is not None:
            self._merge(mapping, merged)
        return mapping

    def _merge(self, into: Mapping, merged: Node) -> None:
        """Add the mappings that `<<` names. A key of `into` keeps its value. A key in two of them is ambiguous."""
        line = into.lines.pop(_MERGE)
        own = set(into.items)
        for each in merged.items if isinstance(merged, Sequence) else [merged]:
            if not isinstance(each, Mapping):
                self._reject(line, "<< merges mappings only")
            for key, value in each.items.items():
                if key in own:
                    continue
                if key in into.items:
                    self._reject(line, f"{named(key)} is in two of the mappings that << merges")
                into.items[key] = value
                into.lines[key] = each.lines[key]

    def _require_tag(self, event: yaml.NodeEvent, name: str) -> None:
        if getattr(event, "tag", None) not in (None, "!", _TAG + name):
            self._reject(event, "a tag (!) is not supported: leave it out")


def _half_fault(code: int) -> str:
    return f"an escape names U+{code:04X}, half of a surrogate pair, which is not a character: leave it out"


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def named(key: str) -> str:
    """Return a key for a message. If it does not look like a key, return "a key": it may be a secret."""
    return key if _PLAIN_KEY.fullmatch(key) else "a key"
