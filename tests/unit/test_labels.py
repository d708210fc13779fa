"""Labels of keys, and what selects keys by them: the rules of Kubernetes."""

from __future__ import annotations

import pytest

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.labels import Label, check_labels, check_selectors, labels_of

GOOD_NAMES = [
    "team",
    "T",
    "0",
    "a-b_c.d",
    "a" * 63,
    "example.com/team",
    "a/A",
    f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}/x",
    "sub-domain.example.com/a.b",
]
BAD_NAMES = [
    "",
    "-a",
    "a-",
    ".a",
    "a b",
    "ä",
    "a\n",
    "a" * 64,
    "/a",
    "a/",
    "a/b/c",
    "Example.com/team",
    "-a.com/b",
    "a..b/c",
    "a_b/c",
    f"{'a' * 64}.com/x",
    f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 62}/x",
]
GOOD_VALUES = ["", "support", "a" * 63, "1.2_3-x", "Z"]
BAD_VALUES = ["a" * 64, "-", "a/b", "a b", " ", "x=y", "ü", "a\n"]


def faults(labels: dict[str, str]) -> list[tuple[str, str]]:
    """Return what is wrong with labels."""
    violations = Violations()
    check_labels(violations, labels_of(labels))
    return listed(violations)


def faults_of_selectors(*selectors: str) -> list[tuple[str, str]]:
    """Return what is wrong with selectors."""
    violations = Violations()
    check_selectors(violations, "filter.labels", selectors)
    return listed(violations)


def listed(violations: Violations) -> list[tuple[str, str]]:
    """Return the violations."""
    try:
        violations.raise_if_any()
    except InvalidRequestError as error:
        return [(each.field, each.description) for each in error.violations]
    return []


@pytest.mark.parametrize("name", GOOD_NAMES)
@pytest.mark.parametrize("value", GOOD_VALUES)
def test_good_labels_pass(name: str, value: str) -> None:
    """And select by name, and by name and value."""
    assert faults({name: value}) == []
    assert faults_of_selectors(name, f"{name}={value}") == []


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused(name: str) -> None:
    """The error quotes the label, and says what is allowed."""
    ((field, description),) = faults({name: "x"})
    assert field == "labels"
    assert description.startswith("has ")
    assert [field for field, _ in faults_of_selectors("fine", name)] == ["filter.labels[1]"]


@pytest.mark.parametrize("value", BAD_VALUES)
def test_a_bad_value_is_refused(value: str) -> None:
    """Also in a selector."""
    ((_, description),) = faults({"team": value})
    assert "its value has to be empty, or 1 to 63 letters" in description
    assert [field for field, _ in faults_of_selectors(f"team={value}")] == ["filter.labels[0]"]


def test_a_key_has_at_most_16_labels() -> None:
    """Each name once, in order."""
    assert faults({f"l{number}": "" for number in range(16)}) == []
    assert faults({f"l{number}": "" for number in range(17)}) == [("labels", "has 17 elements; at most 16 are allowed")]
    assert labels_of({"b": "1", "a": "2"}) == (Label("a", "2"), Label("b", "1"))
