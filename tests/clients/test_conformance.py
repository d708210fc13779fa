"""Every client makes the same of every answer: the cases of clients/conformance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.clients import DRIVERS
from tests.support.conformance import CALLER_TOKEN, Case, Driver, cases, differences, run
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.scripted_server import Script

CASES = {each.name: each for each in cases()}
# The client makes it, so that a retry issues no second key.
WITH_REQUEST_ID = {"issue_key"}


@pytest.fixture(scope="module", params=DRIVERS)
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[Driver]:
    """A program that makes the calls with a client; the same one for all cases."""
    running = await Driver.start(await asyncio.to_thread(DRIVERS[request.param]))
    yield running
    await running.end()


@pytest.mark.parametrize("name", CASES)
@TOGETHER_IF_SHORT
async def test_a_client_makes_the_same_of_an_answer(driver: Driver, name: str) -> None:
    """It returns what is expected, by as many calls as are expected, and presents the caller's token in each."""
    case = CASES[name]
    result, script = await run(driver, case)
    assert differences(case.expect, result) == [], result
    assert case.attempts in {None, len(script.seen)}, script.seen
    assert [each for each in script.answers if "repeat" not in each] == []
    _requests_are_right(case, script)


def _requests_are_right(case: Case, script: Script) -> None:
    for expected, seen in zip(case.requests or [], script.seen, strict=False):
        assert differences(expected, seen.message) == []
        assert seen.message.keys() - expected.keys() <= {"requestId"}
    for seen in script.seen:
        assert seen.headers["authorization"] == f"Bearer {CALLER_TOKEN}"
        assert "grpc-timeout" in seen.headers
    if case.method in WITH_REQUEST_ID:
        ids = {str(each.message["requestId"]) for each in script.seen}
        assert len(ids) == 1
        assert ids != {""}


def test_names_are_unique() -> None:
    """A case that has the name of another would not run."""
    assert len(CASES) == len(cases())


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"denied": {"number": 3}}, {"denied": {"number": 4}}),
        ({"denied": {}}, {"granted": {"keyId": "k1"}}),
        ({"granted": {"toolIds": []}}, {"granted": {}}),
        ({"value": {"keyIds": ["a"]}}, {"value": {"keyIds": ["a", "b"]}}),
        ({"error": {"outage": True}}, {"error": {"outage": False}}),
    ],
)
def test_a_difference_is_found(expected: dict[str, object], found: dict[str, object]) -> None:
    """Whatever is expected and not there."""
    assert differences(expected, found)
