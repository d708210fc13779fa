"""No grant outlives the expiry of its key, no key is denied before, and every known mistake does one of these."""

from __future__ import annotations

import pytest

from tests.model.expiry import END, EXPIRY, Expiry, Mistake
from tests.model.explore import explore, follow

LOADED = ["is sent", "is executed", "arrives"]


def test_a_key_is_granted_before_its_expiry_and_denied_afterwards() -> None:
    """In every order of steps, however long a query takes."""
    found = explore(Expiry())
    assert not found.trace, "\n".join(found.trace)
    assert found.states > 500
    assert found.steps == {"passes", "is sent", "is executed", "arrives", "begins", "is granted", "is expired"}


@pytest.mark.parametrize("mistake", Mistake)
def test_each_mistake_is_found(mistake: Mistake) -> None:
    """Within a few steps."""
    found = explore(Expiry(mistake))
    assert found.trace, f"the promise holds although {mistake.value}"


def test_memory_grants_until_the_end_of_its_count() -> None:
    """A model in which no call is answered would keep every promise."""
    story = [*LOADED, *["passes"] * (EXPIRY - 1), "begins"]
    assert follow(Expiry(), [*story, "is granted"])
    assert not follow(Expiry(), [*story, "passes", "is granted"])


def test_the_key_is_read_again_when_its_count_is_over() -> None:
    """The count ends early by the time that the query took, and then the key is not expired yet."""
    slow = ["is sent", "passes", "is executed", "arrives", "passes", "begins"]
    assert not follow(Expiry(), [*slow, "is granted"])
    assert follow(Expiry(), [*slow, *LOADED, "is granted"])
    over = ["passes"] * END
    assert follow(Expiry(), [*over, "begins", *LOADED, "is expired"])
