"""The kinds of YAML scalars, and the quotes that texts need so that they stay texts."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import yaml

TEXT_TAG = "tag:yaml.org,2002:str"
# libyaml is several times as fast, which matters for a workspace of many MiB.
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# YAML 1.1 takes these for line breaks, except in double quotes.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class Kind(Enum):
    """The kind of a scalar by YAML 1.1 or 1.2. The values are words for people."""

    TEXT = "a text"
    NUMBER = "a number"
    TRUTH = "true or false"
    DATE = "a date"
    NOTHING = "nothing"


# A scalar has a kind if any version of YAML gives it that kind. `y` and `n` are texts: hardly any parser differs.
_KINDS = (
    (Kind.NOTHING, re.compile(r"~|null|Null|NULL|")),
    (Kind.TRUTH, re.compile(r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")),
    (
        Kind.NUMBER,
        re.compile(
            r"""[-+]?(?: 0b[01_]+ | 0o[0-7_]+ | 0x[0-9a-fA-F_]+ | \.(?:inf|Inf|INF)
                | [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?  # base 60: 12:30
                | (?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)? )
                | \.(?:nan|NaN|NAN)""",
            re.VERBOSE,
        ),
    ),
    (
        Kind.DATE,
        re.compile(
            r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}"
            r"(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?"
        ),
    ),
)


def kind_of(text: str) -> Kind:
    """Return the kind of a scalar without quotes."""
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(text)), Kind.TEXT)


def dump(value: object, *, escaped: bool = False) -> str:
    """Return lists, dictionaries and texts as YAML. A text that would not be read as a text is quoted.

    Args:
        value: What to write.
        escaped: Whether to use only ASCII.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=not escaped, width=120)
    return text


class _Dumper(_DUMPER):  # type: ignore[misc]  # one of two classes
    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = '"' if _LINE_ENDS.search(text) else None if kind_of(text) is Kind.TEXT else "'"
        node: yaml.ScalarNode = self.represent_scalar(TEXT_TAG, text, style)
        return node


_Dumper.add_representer(str, _Dumper.represent_text)
