"""The targets in the documents: links, anchors, and files of this repository that are named in backticks."""

from __future__ import annotations

import re
from collections import Counter
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "service" / "skilder_keys"

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])
"""Every document."""

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1`*$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_NAMED_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\">")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")

# A data file without a folder, such as `acme.json`, is usually the reader's own.
_FILE = re.compile(r"[\w./*-]+\.(?:md|proto|pyi?|svg|toml)|[\w.*-]*/[\w./*-]+\.(?:json|sql|txt|ya?ml)")
_FOLDER = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/")
# Files that `make` and the service write are not in the repository.
_WRITTEN = re.compile(r"/.*|(?:build|data|\.venv)/.*")


def faults(document: Path) -> Iterator[str]:
    """Yield a sentence for each target that does not exist."""
    text = document.read_text("utf-8")
    for target in links(text):
        if _ELSEWHERE.match(target):
            continue
        path, _, anchor = target.partition("#")
        found = document if not path else document.parent / unquote(path)
        if not found.exists():
            yield f"the link {target} leads to no file"
        elif anchor and anchor not in anchors(found):
            yield f"the link {target} leads to no heading"
    yield from (f"`{name}` is no file of this repository" for name in named_files(text) if not is_here(name))


def links(text: str) -> list[str]:
    """Return the targets of the links and pictures of a document."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def named_files(text: str) -> list[str]:
    """Return the names in backticks that look like a file or a folder of this repository."""
    names = _CODE.findall(_FENCE.sub("", text))
    return [name for name in names if (_FILE.fullmatch(name) or _FOLDER.fullmatch(name)) and not _WRITTEN.match(name)]


def is_here(name: str) -> bool:
    """Return whether a name, which may have wildcards, is a file or a folder of this repository.

    A name is searched in the repository, in the package, in docs/ and, if it is no path, anywhere below these.
    """
    places = (ROOT, PACKAGE, ROOT / "docs", ROOT / "generated")
    if any(next(place.glob(name), None) is not None for place in places):
        return True
    return "/" not in name.rstrip("/") and any(fnmatch(each.name, name.rstrip("/")) for each in _all_files())


@cache
def _all_files() -> tuple[Path, ...]:
    folders = [ROOT / name for name in ("service", "protos", "docs", "tests", "bench", "faults", "deploy", "examples")]
    return tuple(path for folder in folders if folder.exists() for path in folder.rglob("*"))


@cache
def anchors(document: Path) -> frozenset[str]:
    """Return the anchors of a document: of its headings, as GitHub makes them, and explicit ones."""
    text = _FENCE.sub("", document.read_text("utf-8"))
    found, seen = set(_NAMED_ANCHOR.findall(text)), Counter[str]()
    for heading in _HEADING.findall(text):
        slug = _slug(heading)
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def _slug(heading: str) -> str:
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
