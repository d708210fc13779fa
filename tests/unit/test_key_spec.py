"""What key to issue: the checks of the order, and the digest by which a retry is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import HatId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.keys import KeySpec
from skilder_keys.domain.token import KeyType

ACME, ADA, RUNTIME_ID = WorkspaceId("acme"), UserId("ada"), RuntimeId("rt-1")
SHARED = KeySpec(KeyType.WORKSPACE, ACME, None, None, "Slack Support Bot", ())
PERSONAL = replace(SHARED, type=KeyType.USER, user_id=ADA)
PLATFORM = replace(SHARED, type=KeyType.RUNTIME, runtime_id=RUNTIME_ID)


def faults(order: KeySpec) -> dict[str, str]:
    """Answers what is said of each field at fault."""
    violations = Violations()
    order.check(violations)
    try:
        violations.raise_if_any()
    except InvalidRequestError as error:
        return {each.field: each.description for each in error.violations}
    return {}


@pytest.mark.parametrize(
    "order",
    [
        SHARED,
        PERSONAL,
        PLATFORM,
        replace(SHARED, hat_ids=(HatId("b"), HatId("a"))),
        replace(PERSONAL, hat_ids=tuple(HatId(f"h{at}") for at in range(100)), user_id=UserId("u" * 128)),
        replace(PLATFORM, runtime_id=RuntimeId("r" * 128), description="日" * 200),
    ],
)
def test_good_orders_pass(order: KeySpec) -> None:
    """Each type with the fields that are its own, up to their bounds."""
    assert faults(order) == {}


@pytest.mark.parametrize(
    ("order", "change", "field"),
    [
        (SHARED, {"workspace_id": WorkspaceId("")}, "workspace_id"),
        (SHARED, {"workspace_id": WorkspaceId("a b")}, "workspace_id"),
        (SHARED, {"workspace_id": WorkspaceId("w" * 65)}, "workspace_id"),
        (SHARED, {"description": ""}, "description"),
        (SHARED, {"description": " "}, "description"),
        (SHARED, {"description": "d" * 201}, "description"),
        (SHARED, {"description": "two\nlines"}, "description"),
        (SHARED, {"user_id": ADA}, "user_id"),
        (SHARED, {"runtime_id": RUNTIME_ID}, "runtime_id"),
        (PERSONAL, {"user_id": None}, "user_id"),
        (PERSONAL, {"user_id": UserId("a ")}, "user_id"),
        (PERSONAL, {"user_id": UserId("u" * 256)}, "user_id"),
        (PERSONAL, {"runtime_id": RUNTIME_ID}, "runtime_id"),
        (PLATFORM, {"runtime_id": None}, "runtime_id"),
        (PLATFORM, {"runtime_id": RuntimeId("r" * 256)}, "runtime_id"),
        (PLATFORM, {"user_id": ADA}, "user_id"),
        (PLATFORM, {"hat_ids": (HatId("a"),)}, "hat_ids"),
        (SHARED, {"hat_ids": (HatId("a"), HatId("b c"))}, "hat_ids[1]"),
        (SHARED, {"hat_ids": (HatId(""),)}, "hat_ids[0]"),
        (SHARED, {"hat_ids": (HatId("a"), HatId("b"), HatId("a"))}, "hat_ids[2]"),
        (SHARED, {"hat_ids": tuple(HatId(f"h{at}") for at in range(101))}, "hat_ids"),
    ],
)
def test_a_field_at_fault_is_named(order: KeySpec, change: dict[str, Any], field: str) -> None:
    """That one, and no other."""
    assert list(faults(replace(order, **change))) == [field]


def test_a_field_of_another_type_says_whose_it_is() -> None:
    """So that a mistaken type is noticed."""
    assert faults(replace(SHARED, user_id=ADA)) == {"user_id": "is 'ada', and for user keys only"}
    assert faults(replace(PERSONAL, runtime_id=RUNTIME_ID)) == {
        "runtime_id": f"is '{RUNTIME_ID}', and for runtime keys only"
    }


def test_all_fields_at_fault_are_told_at_once() -> None:
    """A caller mends the order in one go."""
    order = KeySpec(KeyType.RUNTIME, WorkspaceId(""), ADA, None, "", (HatId("a b"),))
    expected = ["workspace_id", "description", "user_id", "runtime_id", "hat_ids", "hat_ids[0]"]
    assert list(faults(order)) == expected


IDS = st.text("abc", min_size=1, max_size=3)
ORDERS = st.builds(
    KeySpec,
    st.sampled_from(KeyType),
    IDS.map(WorkspaceId),
    st.none() | IDS.map(UserId),
    st.none() | IDS.map(RuntimeId),
    st.text(max_size=5),
    st.lists(IDS.map(HatId), unique=True, max_size=3).map(tuple),
)
ACTORS = st.none() | IDS.map(UserId)


@settings(deadline=None)
@given(ORDERS, ACTORS, ORDERS, ACTORS)
def test_a_digest_stands_for_one_order_of_one_actor(
    order: KeySpec, actor: UserId | None, other: KeySpec, other_actor: UserId | None
) -> None:
    """Equal orders have equal digests, whatever the order of their hats, and others have others."""
    same = (replace(order, hat_ids=()), set(order.hat_ids), actor) == (
        replace(other, hat_ids=()),
        set(other.hat_ids),
        other_actor,
    )
    assert (order.digest(actor) == other.digest(other_actor)) == same
    assert replace(order, hat_ids=order.hat_ids[::-1]).digest(actor) == order.digest(actor)
    assert len(order.digest(actor)) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"type": KeyType.USER},
        {"workspace_id": WorkspaceId("acme2")},
        {"user_id": ADA},
        {"runtime_id": RuntimeId("ada")},
        {"description": "Slack Support bot"},
        {"hat_ids": (HatId("a"),)},
        {"hat_ids": (HatId("a"), HatId("b"), HatId("c"))},
        {"hat_ids": (HatId("a,b"),)},
    ],
)
def test_any_other_field_gives_another_digest(change: dict[str, Any]) -> None:
    """A request_id that is used again for something else is noticed."""
    order = replace(SHARED, hat_ids=(HatId("a"), HatId("b")))
    assert replace(order, **change).digest(None) != order.digest(None)


def test_another_actor_gives_another_digest() -> None:
    """The same order on another's behalf is another order."""
    assert len({SHARED.digest(actor) for actor in (None, ADA, UserId("bob"))}) == 3
