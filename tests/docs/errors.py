"""The table of errors: codes, reasons and meanings from the code, advice and methods from `errors.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from skilder_keys.rpc.status import STATUS_CODES
from skilder_keys.yaml_files import reader
from tests.docs import contract

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = Path(__file__).with_name("errors.yaml")


@dataclass(frozen=True, slots=True)
class Advice:
    """What a caller should know about an error, besides its code and its meaning.

    Attributes:
        do: What to do, in one or two sentences.
        requests: Requests that cause the error, by method; empty if every method has it.
    """

    do: str
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)


def advice() -> dict[str, Advice]:
    """Return the advice by reason."""
    found = {reason: Advice(**each) for reason, each in yaml.load(_FILE.read_text("utf-8"), reader.PARSER).items()}  # noqa: S506 - a safe loader
    found["ACTOR_REQUIRED"].requests.update((method, {}) for method in _methods_with_actor())
    return found


def _methods_with_actor() -> Iterator[str]:
    """Yield each method that takes an actor, e.g. `KeyService/GetKey`."""
    for service in contract.services():
        for method in service.methods:
            if any(each.name == "actor" for each in contract.messages()[method.request].fields):
                yield f"{service.name}/{method.name}"


def table() -> str:
    """Return the table.

    Raises:
        KeyError: An error of the code is not in the file.
        ValueError: The file has a reason that the code does not have.
    """
    known = advice()
    rows = ["| reason | status code | meaning | what to do | methods |", "|---|---|---|---|---|"]
    for kind, code in STATUS_CODES.items():
        found = known.pop(kind.reason)
        meaning = (kind.__doc__ or "").splitlines()[0]
        methods = ", ".join(f"`{method.partition('/')[2]}`" for method in found.requests) or "all"
        names = ", ".join(f"`{name}`" for name in kind.metadata)
        more = f" Metadata: {names}." if names else ""
        if kind.retry_after is not None:
            more += f" `RetryInfo`: {kind.retry_after.total_seconds():.0f} s."
        rows.append(f"| `{kind.reason}` | `{code.name}` | {meaning}{more} | {found.do} | {methods} |")
    if known:
        raise ValueError(f"no error of the service has these reasons: {', '.join(known)}")
    return "\n".join(rows)
