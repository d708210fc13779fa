"""Tokens are found in whatever is around them, and nothing else is."""

from __future__ import annotations

import base64
import re
import tomllib
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from skilder_keys.cli.scan.finder import tokens_in
from skilder_keys.domain.token import KeyType, MalformedTokenError, Token

ROOT = Path(__file__).parents[2]
TOKENS = [Token.mint(key_type, uuid4()) for key_type in KeyType for _ in range(2)]  # type: ignore[arg-type]  # any UUID
TEXTS = [token.reveal() for token in TOKENS]
AROUND = st.text(alphabet="aZ0_\\=+/\n ÄΩ人🔑", max_size=8)


def lookalikes() -> list[str]:
    """Return texts that differ from a token in a little."""
    text = TEXTS[0]
    at = next(n for n in range(30, 74) if text[n] != text[n + 1])
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    other_case = next(text[:n] + text[n].swapcase() + text[n + 1 :] for n in range(4, 75) if text[n].isalpha())
    return [
        text[:-1],
        "WSK_" + text[5:],
        text[:40] + "-" + text[41:],
        f"W{text}"[:75],
        other_case,
        swapped,
        text.lower(),
    ]


def written(text: str, form: str) -> str:
    """Return a token's text in one of the forms in which files have it."""
    if form == "base64":
        return base64.b64encode(f"{text}\n".encode()).decode()
    return text.replace("_", {"plain": "_", "markdown": r"\_", "url": "%5f"}[form])


@given(
    parts=st.lists(
        st.tuples(AROUND, st.sampled_from(TEXTS), st.sampled_from(["plain", "markdown", "url", "base64"])), max_size=4
    ),
    rest=AROUND,
    size=st.sampled_from([1, 7, 75, 100, 10_000]),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-be"]),
)
def test_every_token_is_found_with_its_line(
    parts: list[tuple[str, str, str]], rest: str, size: int, encoding: str
) -> None:
    """Whatever is around them, and in parts of any size."""
    whole, expected = "", []
    for before, text, form in parts:
        # What comes right before base64 would belong to it.
        whole += before + (" " if form == "base64" else "")
        expected.append((1 + whole.count("\n"), text))
        whole += written(text, form)
    data = (whole + rest).encode(encoding)
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert [(line, token.reveal()) for line, token in tokens_in(chunks)] == expected


def test_a_token_begins_within_a_lookalike() -> None:
    """And one that ends where another begins is not lost."""
    data = f"USK_{'x' * 68}{TEXTS[0]}{TEXTS[1]}".encode()
    assert [token for _, token in tokens_in([data])] == TOKENS[:2]


def test_no_lookalike_is_found() -> None:
    """The checksum tells."""
    for text in lookalikes():
        with pytest.raises(MalformedTokenError):
            Token.parse(text)
        assert not list(tokens_in([text.encode(), base64.b64encode(text.encode())]))


def test_the_documented_rule_is_that_of_the_service() -> None:
    """The code in the page tells tokens from lookalikes."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/leaks.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - the page's own code
    is_token = names["is_token"]
    assert callable(is_token)
    assert all(map(is_token, TEXTS))
    assert not any(map(is_token, lookalikes()))


def patterns() -> dict[str, str]:
    """Return the pattern of each tool, as Python writes it."""
    folder = ROOT / "deploy/leaks"
    (rule,) = tomllib.loads((folder / "gitleaks.toml").read_text())["rules"]
    (detector,) = yaml.safe_load((folder / "trufflehog.yaml").read_text())["detectors"]
    github = yaml.safe_load((folder / "secret-scanning.yaml").read_text())
    whole = f"(?:{github['before']})({github['secret']})(?:{github['after']})".replace(r"\z", r"\Z")
    return {"gitleaks": rule["regex"], "trufflehog": detector["regex"]["token"], "github": whole}


@pytest.mark.parametrize(("tool", "pattern"), patterns().items())
def test_a_pattern_finds_what_has_the_form_of_a_token(tool: str, pattern: str) -> None:
    """In the middle of a line, alone, in quotes and after an escaped line feed."""
    for text in TEXTS:
        for around in ("{}", "key={}\n", '"{}"', r"a\n{}\n", "Bearer {},"):
            assert re.search(pattern, around.format(text)), (tool, around)
    for text in (TEXTS[0][:-1], f"{TEXTS[0]}x", TEXTS[0].replace("_", "-")):
        assert not re.search(pattern, text), (tool, text)
