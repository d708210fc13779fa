"""Labels of keys: names with a value each, by the rules of Kubernetes.

https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skilder_keys.domain.fields import Violations

MAX_LABELS = 16
MAX_PART = 63
MAX_PREFIX = 253

_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PART_RULE = f"1 to {MAX_PART} letters, digits or -_. with a letter or digit first and last"
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PREFIX = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """A label. The name is what Kubernetes calls its key."""

    name: str
    value: str


def labels_of(pairs: "Mapping[str, str]") -> tuple[Label, ...]:
    """Return labels, in order of name."""
    return tuple(sorted(Label(name, value) for name, value in pairs.items()))


def check_labels(violations: "Violations", labels: tuple[Label, ...], field: str = "labels") -> None:
    """Check the labels of a key, in a field."""
    violations.count(field, labels, maximum=MAX_LABELS)
    for label in labels[:MAX_LABELS]:
        fault = _fault_of_name(label.name) or _fault_of_value(label.value)
        if fault:
            violations.add(field, f"has {quoted(f'{label.name}={label.value}')}: {fault}")


def check_selectors(violations: "Violations", field: str, selectors: "Iterable[str]") -> None:
    """Check what selects keys by their labels: `name=value`, or `name` for any value."""
    for index, selector in enumerate(selectors):
        name, _, value = selector.partition("=")
        fault = _fault_of_name(name) or _fault_of_value(value)
        if fault:
            violations.add(f"{field}[{index}]", f"is {quoted(selector)}, which is no label: {fault}")


def _fault_of_name(name: str) -> str:
    *prefixes, part = name.split("/", 1)
    for prefix in prefixes:
        if len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix):
            return f"what stands before / has to be a DNS name in lower case, of at most {MAX_PREFIX} characters"
    return "" if _is_part(part) else f"its name has to be {_PART_RULE}"


def _fault_of_value(value: str) -> str:
    return "" if not value or _is_part(value) else f"its value has to be empty, or {_PART_RULE}"


def _is_part(text: str) -> bool:
    return len(text) <= MAX_PART and _PART.fullmatch(text) is not None
