"""Empty never means more: a request from which something is missing grants, lists, issues and changes no more."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.calls import METHODS
from tests.support.effects import NOTHING, Case, Facts, World
from tests.support.fail_open import CASES, REFUSED_FIELDS
from tests.support.lengths import by_form
from tests.support.transport import ONLY_GRPCIO
from tests.support.variants import fields_of, set_fields

if TYPE_CHECKING:
    from collections.abc import Sequence


def cases(chosen: Sequence[Case]) -> pytest.MarkDecorator:
    """Run a test with each of these cases, which do not depend on the transport."""
    return pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case.method} {case.name}")


FIRST = list({case.method: case for case in reversed(CASES)}.values())
"""One case of each method, for the short form."""
EXCEPTED = [case for case in CASES if case.meant]


@pytest.fixture
def world(world_of_effects: World) -> World:
    """A workspace and keys."""
    return world_of_effects


def test_every_method_is_measured() -> None:
    """A method without a case is not tested here: add one to tests/support/fail_open.py."""
    assert {case.method for case in CASES} == set(METHODS), "no measure for a method"


@ONLY_GRPCIO
async def test_every_field_is_left_out_somewhere(world: World) -> None:
    """Each field of each method is set in a case, at each depth."""
    for method, descriptor in METHODS.items():
        made = [await case.make(world) for case in CASES if case.method == method]
        tried = {path for request in made for path in set_fields(request)}
        refused = REFUSED_FIELDS.get(method, {})
        assert tried | set(refused) == set(fields_of(descriptor.input_type)), f"set these fields in a case of {method}"
        assert tried.isdisjoint(refused)


class Comparison:
    """What a case does, to compare with what it does with less."""

    def __init__(self, world: World, case: Case) -> None:
        self._world = world
        self._case = case
        self._facts: Facts = NOTHING
        self._bound: Facts = NOTHING

    async def begin(self) -> int:
        """Measure the whole request, and return how many requests there are with less."""
        whole = await self._case.make(self._world)
        self._facts = self._bound = await self._measure(whole, whole)
        assert (self._facts == NOTHING) is self._case.refused, "a request that does nothing compares with nothing"
        if self._case.narrows:
            without: Any = await self._case.make(self._world)
            for name in self._case.narrows:
                without.ClearField(name)
            if hasattr(without, "page_token"):  # it is of the other listing
                without.page_token = ""
            self._bound = await self._measure(without, without)
        return len(self._case.variants(whole))

    async def compare(self, *places: int) -> None:
        """Fail if the request does more after one change, or several one after the other, given by their numbers."""
        # It is made anew each time, since what it aims at may be gone afterwards.
        request = whole = await self._case.make(self._world)
        changes = []
        for place in places:
            variants = self._case.variants(request)
            if not variants:
                break
            changes.append(variants[place % len(variants)])
            request = changes[-1].request
        if any(change.field in self._case.meant for change in changes):
            return
        narrows = any(change.field.partition(".")[0] in self._case.narrows for change in changes)
        found = await self._measure(request, whole)
        more = found - (self._bound if narrows else self._facts)
        assert not more, f"{[(change.path, change.what) for change in changes]}: {sorted(map(str, more))}"

    async def _measure(self, request: Any, whole: Any) -> Facts:
        return await self._case.measure(self._world, self._case, request, whole)


@ONLY_GRPCIO
@cases(by_form(FIRST, CASES))
async def test_less_in_a_request_is_never_more_in_effect(world: World, case: Case) -> None:
    """For each field at each depth left out, empty or zero, and for each list without one of its elements."""
    await compare_each(world, case)


@pytest.mark.parametrize("transport", ["envoy"], indirect=True)
@cases([case for case in by_form(FIRST, CASES) if case.method.startswith("AuthorizationService")])
async def test_less_is_never_more_on_the_fast_path_either(world: World, case: Case) -> None:
    """Envoy's worker decides about known tokens before it parses a request as others do."""
    await compare_each(world, case)


async def compare_each(world: World, case: Case) -> None:
    """Compare a request with each that has less in one place, and with some that have less in two or three places.

    The short form has one case of each method, and chooses a tenth of the places by chance. The long form chooses half
    of them.
    """
    comparison = Comparison(world, case)
    count = await comparison.begin()
    assert count > 0
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - chance, not a secret
    part = by_form(10, 2, 1)
    for place in source.sample(range(count), math.ceil(count / part)):
        await comparison.compare(place)
    if case.method == "CatalogService/ApplyWorkspace":
        # Two such changes may be meant: to leave out a part, and the guard that would refuse it.
        return
    for _ in range(by_form(1, 10, 50)):
        await comparison.compare(*(source.randrange(1000) for _ in range(source.randint(2, 3))))


@ONLY_GRPCIO
@cases(by_form(EXCEPTED[::3], EXCEPTED))
async def test_an_exception_is_needed(world: World, case: Case) -> None:
    """Each field that is excepted would fail the comparison."""
    whole = await case.make(world)
    facts = await case.measure(world, case, whole, whole)
    for name in case.meant:
        found = []
        for number, variant in enumerate(case.variants(whole)):
            if variant.field == name:
                made = await case.make(world)
                found.append(await case.measure(world, case, case.variants(made)[number].request, made))
        assert any(not each <= facts for each in found), name
