"""The inputs in `tests/cases`: what people, identity providers and MCP servers write in practice."""

from __future__ import annotations

from pathlib import Path

import yaml

from skilder_keys.yaml_files import reader

FOLDER = Path(__file__).parents[1] / "cases"
_CASES = yaml.load((FOLDER / "texts-and-ids.yaml").read_text("utf-8"), reader.PARSER)  # noqa: S506 - a safe loader

# YAML cannot hold a lone surrogate, so the file spells it out, in a note after the text.
_NOTE = " (as a JSON escape)"

TAKEN_TEXTS = {case["what"]: case["text"] for case in _CASES["texts"]["taken"]}
REFUSED_TEXTS = {
    case["what"]: case["text"].removesuffix(_NOTE).encode().decode("unicode_escape")
    if case["text"].endswith(_NOTE)
    else case["text"]
    for case in _CASES["texts"]["refused"]
}
TAKEN_USER_IDS: list[str] = _CASES["user_ids"]["taken"]
REFUSED_USER_IDS: list[str] = _CASES["user_ids"]["refused"]
TAKEN_TOOL_IDS: list[str] = _CASES["tool_ids"]["taken"]

MORE_TEXTS = {
    "Persian with ZWNJ": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Hindi with ZWJ": "\u0915\u094d\u200d\u0937",
    "Hebrew with points and marks": "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd\u200f! \u200eA",
    "Arabic letter mark": "\u061c5\u0666",
    "Thai": "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "many combining marks": "Z" + "\u0351\u036b\u0343" * 20,
    "flag of tags": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "byte order mark within": "a\ufeffb",
    "word joiner": "a\u2060b",
    "annotation": "\ufff9a\ufffab\ufffb",
    "object and replacement": "\ufffc\ufffd",
    "noncharacters": "a\uffff\ufdd0\U0010ffffb",
    "unassigned": "\u0378\U0003ffff",
    "private use of every plane": "\ue000\U000f0000\U0010fffd",
    "composed and decomposed": "\xe9e\u0301\u212b\xc5",
    "quotes and signs": "'\"`\\%s$1{};--&<>,:#|~",
    "spaces at its ends": "\xa0 x \u3000",
    "Ogham": "\u1695\u1680\u1695",
    "ideographic variation": "\u8fba\U000e0101",
}
"""More of the same kinds, which must be accepted unchanged."""

MORE_IDS = [
    *(text for text in MORE_TEXTS.values() if text.strip() == text),
    *(
        "é" * 255,
        "\U0001f916" * 255,
        "e\u0301",
        "\xe9",
        "a,b;c=d",
        "'; DROP TABLE key; --",
        '"',
        "%00",
        "%E2%80%AE",
        "a  b",
    ),
    *(
        "null",
        "0104233",
        "true",
        "-",
        "--help",
        "~",
        "*",
        "[]",
        "{}",
        "a\\",
        "\\n",
        "C:\\Users\\x",
        "a#b",
        "a: b",
        "=x",
    ),
]
"""Ids as real systems make them."""
