"""Which cases the long form leaves to another transport, or to another Postgres."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service import TRANSPORTS
from tests.support.stock import MISSING, binaries
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO, why_unavailable
from tests.support.turns import SERVERS, is_for_the_longest_form

if TYPE_CHECKING:
    from collections.abc import Iterator

WITH_ENVOY = pytest.mark.skipif(bool(why_unavailable("envoy")), reason="without Envoy, all cases run with grpcio")


@dataclass(frozen=True)
class CallSpec:
    """The parameters of a case."""

    params: dict[str, object]


@dataclass(frozen=True)
class Case:
    """What it depends on."""

    nodeid: str
    transport: str | None
    marks: tuple[pytest.MarkDecorator, ...] = (GRPCIO_IF_SHORT,)
    postgres: str | None = None

    @property
    def callspec(self) -> CallSpec:
        """The parameters."""
        given = {"transport": self.transport, "postgres_url": self.postgres}
        return CallSpec({name: value for name, value in given.items() if value is not None})

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        """Yield the marks with a name."""
        return (each.mark for each in self.marks if each.name == name)

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        """Return a mark with a name."""
        return next(self.iter_markers(name), None)


def kept(case: Any) -> bool:
    """Return whether the long form runs a case."""
    return not is_for_the_longest_form(case)


@WITH_ENVOY
def test_each_case_has_one_transport_and_each_transport_has_many_cases() -> None:
    """Whatever the file is called: its name may have that of a transport."""
    found = Counter(
        transport
        for number in range(100)
        for transport in TRANSPORTS
        if kept(Case(f"test_envoy_check.py::test_a_call[{transport}-{number}]", transport))
    )
    assert found.total() == 100
    assert all(found[each] > 20 for each in TRANSPORTS)


@pytest.mark.parametrize("marks", [(), (GRPCIO_IF_SHORT, ONLY_GRPCIO)], ids=["about transports", "chooses itself"])
def test_other_tests_keep_their_transports(marks: tuple[pytest.MarkDecorator, ...]) -> None:
    """Those whose subject is the transport, and those that choose."""
    assert all(
        kept(Case(f"test_x.py::test_a_call[{transport}-{number}]", transport, marks))
        for number in range(50)
        for transport in TRANSPORTS
    )


@pytest.mark.skipif(binaries() is None, reason=MISSING)
@pytest.mark.parametrize("in_turn", [True, False])
def test_cases_take_turns_on_two_servers(*, in_turn: bool) -> None:
    """Those whose test is marked so; the others run on both."""
    found = Counter(
        server
        for number in range(100)
        for server in SERVERS
        if kept(
            Case(f"test_x.py::test_a_plan[{server}-{number}]", None, (pytest.mark.stock_too(in_turn=in_turn),), server)
        )
    )
    assert found.total() == (100 if in_turn else 200)
    assert all(found[each] > 20 for each in SERVERS)


def test_a_test_without_a_transport_is_kept() -> None:
    """The mark of a module is that of all of its tests."""

    class Plain:
        nodeid = "test_x.py::test_a_call"
        iter_markers = Case("", "").iter_markers
        get_closest_marker = Case("", "").get_closest_marker

    assert kept(Plain())
