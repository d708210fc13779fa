"""The examples of the API's methods, from `examples.yaml`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from skilder_keys.yaml_files import reader

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = Path(__file__).with_name("examples.yaml")


@dataclass(frozen=True, slots=True)
class Example:
    """A call and its response, as JSON with the names of the contract, which is how grpcurl shows them.

    Attributes:
        method: The method, e.g. `KeyService/IssueKey`.
        about: A sentence about the example.
        bearer: The token with which it is called; empty for that of an operator.
    """

    method: str
    about: str
    request: dict[str, Any]
    response: dict[str, Any]
    bearer: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """All examples.

    Attributes:
        calls: The calls, in an order in which they can be sent, to a service without workspaces.
        samples: Values that are different in each run: ids, tokens, versions and times.
    """

    calls: tuple[Example, ...]
    samples: frozenset[str]

    def of(self, method: str) -> list[Example]:
        """Return the examples of a method."""
        return [each for each in self.calls if each.method == method]


def load() -> Examples:
    """Return the examples in the file."""
    document = yaml.load(_FILE.read_text("utf-8"), reader.PARSER)  # noqa: S506 - a safe loader
    return Examples(tuple(Example(**each) for each in document["calls"]), frozenset(document["samples"]))


def as_json(value: Mapping[str, Any]) -> str:
    """Return a message of an example as grpcurl prints it."""
    return json.dumps(value, indent=2, ensure_ascii=False)
