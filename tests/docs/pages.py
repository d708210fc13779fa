"""Which documents have generated parts, and what makes each part.

A generated part is between two marks, `<!-- NAME: … -->` and `<!-- end of NAME -->`; people write the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs import capacity, clients, errors, json_page, methods, openapi, options, reference, roles, sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Page:
    """A document with generated parts.

    Attributes:
        parts: The function that makes each part, by the part's name.
    """

    path: Path
    parts: Mapping[str, Callable[[], str]]

    def generated(self) -> str:
        """Return the text of the document with every part made again.

        Raises:
            ValueError: The document has no marks for a part.
        """
        text = self.path.read_text("utf-8")
        for name, make in self.parts.items():
            text = replace_part(text, name, make())
        return text


@dataclass(frozen=True, slots=True)
class File:
    """A file of which every line is generated.

    Attributes:
        make: The function that makes its text.
    """

    path: Path
    make: Callable[[], str]

    def generated(self) -> str:
        """Return the text of the file, made again."""
        return self.make()


CAPACITY = Page(ROOT / "docs" / "operations.md", {"capacity": capacity.table})
"""It has numbers of docs/performance.md, which `make bench` writes."""

PAGES = (
    Page(ROOT / "README.md", {"clients": clients.table}),
    Page(ROOT / "clients" / "README.md", {"contents": clients.contents}),
    File(ROOT / "docs" / "service-config.json", methods.service_config),
    Page(ROOT / "docs" / "options.md", {"options": options.table}),
    Page(ROOT / "docs" / "callers.md", {"roles": roles.table}),
    Page(
        ROOT / "docs" / "api.md",
        {
            "methods": methods.table,
            "sizes": sizes.table,
            "errors": errors.table,
            "reference": reference.text,
        },
    ),
    File(ROOT / "docs" / "openapi.json", openapi.document),
    Page(ROOT / "docs" / "http.md", {"paths": openapi.table}),
    Page(ROOT / "docs" / "json.md", {"responses": json_page.text}),
    CAPACITY,
)


def replace_part(text: str, name: str, content: str) -> str:
    """Return a document's text with new content between the marks of a part.

    Raises:
        ValueError: The text does not have the marks exactly once.
    """
    part = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    replaced, count = part.subn(lambda marks: f"{marks[1]}{content}\n{marks[2]}", text)
    if count != 1:
        raise ValueError(f"the marks of {name!r} stand {count} times in the document, not once")
    return replaced
