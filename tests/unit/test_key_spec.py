"""What key to issue: the checks of the spec, and the digest that recognizes a retry."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import HatId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.keys import KeyLimit, PreviousKeys
from skilder_keys.domain.labels import Label, labels_of
from skilder_keys.domain.token import KeyType

ACME, ADA, RUNTIME_ID = WorkspaceId("acme"), UserId("ada"), RuntimeId("rt-1")
SHARED = KeySpec(KeyType.WORKSPACE, ACME, None, None, "Slack Support Bot", None, (KeyLimit.HATS,))
PERSONAL = replace(SHARED, type=KeyType.USER, user_id=ADA)
LIMITED = replace(SHARED, hat_ids=(HatId("a"),), unlimited=())
PLATFORM = replace(SHARED, type=KeyType.RUNTIME, runtime_id=RUNTIME_ID, unlimited=())


def faults(spec: KeySpec) -> dict[str, str]:
    """Return the errors, by field."""
    violations = Violations()
    spec.check(violations)
    try:
        violations.raise_if_any()
    except InvalidRequestError as error:
        return {each.field: each.description for each in error.violations}
    return {}


@pytest.mark.parametrize(
    "spec",
    [
        SHARED,
        PERSONAL,
        PLATFORM,
        replace(SHARED, hat_ids=(HatId("b"), HatId("a")), unlimited=()),
        replace(PERSONAL, hat_ids=(), unlimited=()),
        replace(PERSONAL, hat_ids=tuple(HatId(f"h{at}") for at in range(100)), unlimited=()),
        replace(PERSONAL, user_id=UserId("caller:" + "u" * 248)),
        replace(PLATFORM, runtime_id=RuntimeId("r" * 128), description="日" * 200),
        replace(SHARED, lifetime=timedelta(seconds=1)),
        replace(PERSONAL, lifetime=timedelta(days=3653)),
        replace(PLATFORM, expires_at=datetime(2030, 1, 1, tzinfo=UTC)),
    ],
)
def test_good_specs_pass(spec: KeySpec) -> None:
    """Each key type with its own fields, up to their bounds."""
    assert faults(spec) == {}


@pytest.mark.parametrize(
    ("spec", "change", "field"),
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
        (PLATFORM, {"hat_ids": (HatId("a"),)}, "hat_limit"),
        (PLATFORM, {"hat_ids": ()}, "hat_limit"),
        (PLATFORM, {"unlimited": (KeyLimit.HATS,)}, "unlimited"),
        (SHARED, {"unlimited": (KeyLimit.HATS, KeyLimit.HATS)}, "unlimited[1]"),
        (LIMITED, {"hat_ids": (HatId("a"), HatId("b c"))}, "hat_limit.hat_ids[1]"),
        (LIMITED, {"hat_ids": (HatId(""),)}, "hat_limit.hat_ids[0]"),
        (LIMITED, {"hat_ids": (HatId("a"), HatId("b"), HatId("a"))}, "hat_limit.hat_ids[2]"),
        (LIMITED, {"hat_ids": tuple(HatId(f"h{at}") for at in range(101))}, "hat_limit.hat_ids"),
        (SHARED, {"lifetime": timedelta()}, "lifetime"),
        (SHARED, {"lifetime": timedelta(seconds=-90)}, "lifetime"),
        (SHARED, {"lifetime": timedelta(milliseconds=999)}, "lifetime"),
        (SHARED, {"lifetime": timedelta(days=3653, microseconds=1)}, "lifetime"),
        (SHARED, {"labels": (Label("", "x"),)}, "labels"),
        (SHARED, {"labels": tuple(Label(f"l{at}", "") for at in range(17))}, "labels"),
    ],
)
def test_a_field_at_fault_is_named(spec: KeySpec, change: dict[str, Any], field: str) -> None:
    """That field, and no other."""
    assert list(faults(replace(spec, **change))) == [field]


@pytest.mark.parametrize("spec", [SHARED, PERSONAL])
def test_a_limit_to_hats_is_either_set_or_lifted(spec: KeySpec) -> None:
    """What was forgotten, or said both ways, never issues a key. The errors name both fields and what to do."""
    assert faults(replace(spec, unlimited=())) == {
        "hat_limit": "is required: name the hats that the key may reach, or add KEY_LIMIT_HATS to unlimited",
        "unlimited": "is required: add KEY_LIMIT_HATS if the key may reach every hat, or set hat_limit",
    }
    for hat_ids in ((), (HatId("a"),)):
        assert faults(replace(spec, hat_ids=hat_ids)) == {
            "hat_limit": "is set, but unlimited has KEY_LIMIT_HATS: leave one of the two out",
            "unlimited": "has KEY_LIMIT_HATS, but hat_limit is set: leave one of the two out",
        }


def test_a_field_of_another_key_type_is_refused() -> None:
    """The error names the type it belongs to, so that a wrong type is noticed."""
    assert faults(replace(SHARED, user_id=ADA)) == {"user_id": "is 'ada', but is for user keys only"}
    assert faults(replace(PERSONAL, runtime_id=RUNTIME_ID)) == {
        "runtime_id": f"is '{RUNTIME_ID}', but is for runtime keys only"
    }


def test_all_fields_at_fault_are_reported_at_once() -> None:
    """So a caller can fix the whole request in one go."""
    spec = KeySpec(KeyType.RUNTIME, WorkspaceId(""), ADA, None, "", (HatId("a b"),), ())
    expected = ["workspace_id", "description", "user_id", "runtime_id", "hat_limit", "hat_limit.hat_ids[0]"]
    assert list(faults(spec)) == expected


IDS = st.text("abc", min_size=1, max_size=3)
SPECS = st.builds(
    KeySpec,
    st.sampled_from(KeyType),
    IDS.map(WorkspaceId),
    st.none() | IDS.map(UserId),
    st.none() | IDS.map(RuntimeId),
    st.text(max_size=5),
    st.none() | st.lists(IDS.map(HatId), unique=True, max_size=3).map(tuple),
    st.sampled_from([(), (KeyLimit.HATS,)]),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.none() | st.timedeltas(),
    st.dictionaries(IDS, IDS, max_size=2).map(labels_of),
)
ACTORS = st.none() | IDS.map(UserId)


def unordered(spec: KeySpec) -> KeySpec:
    """Return a spec with its hats in order."""
    return replace(spec, hat_ids=None if spec.hat_ids is None else tuple(sorted(spec.hat_ids)))


@settings(deadline=None)
@given(SPECS, ACTORS, SPECS, ACTORS)
def test_a_digest_stands_for_one_spec_of_one_actor(
    spec: KeySpec, actor: UserId | None, other: KeySpec, other_actor: UserId | None
) -> None:
    """Equal specs have equal digests, in whatever order their hats are; different specs have different ones."""
    same = (unordered(spec), actor) == (unordered(other), other_actor)
    assert (spec.digest(actor) == other.digest(other_actor)) == same
    if spec.hat_ids is not None:
        assert replace(spec, hat_ids=spec.hat_ids[::-1]).digest(actor) == spec.digest(actor)
    assert len(spec.digest(actor)) == 32


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
        {"hat_ids": ()},
        {"hat_ids": None},
        {"unlimited": ()},
        {"expires_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"lifetime": timedelta(days=90)},
        {"lifetime": timedelta()},
        {"networks": ("10.0.0.0/8",)},
        {"networks": ()},
        {"labels": (Label("a", "b"),)},
    ],
)
def test_any_other_field_gives_another_digest(change: dict[str, Any]) -> None:
    """So a request_id that is reused for something else is noticed."""
    spec = replace(SHARED, hat_ids=(HatId("a"), HatId("b")))
    assert replace(spec, **change).digest(None) != spec.digest(None)


def test_another_actor_gives_another_digest() -> None:
    """The same spec on behalf of another actor is another request."""
    assert len({SHARED.digest(actor) for actor in (None, ADA, UserId("bob"))}) == 3


def test_the_digest_covers_every_field() -> None:
    """A field that the digest leaves out would let a retry with another value pass for the same request."""
    others: dict[str, Any] = {
        "type": KeyType.USER,
        "workspace_id": WorkspaceId("other"),
        "user_id": ADA,
        "runtime_id": RUNTIME_ID,
        "description": "Other",
        "hat_ids": (HatId("a"),),
        "unlimited": (),
        "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
        "lifetime": timedelta(days=90),
        "networks": ("10.0.0.0/8",),
        "labels": (Label("a", "b"),),
        "previous_keys": PreviousKeys.KEEP,
    }
    assert set(others) == {field.name for field in fields(KeySpec)}, "give the new field another value here"
    digests = {replace(SHARED, **{name: value}).digest(None) for name, value in others.items()}
    assert len(digests | {SHARED.digest(None)}) == len(others) + 1


def test_the_digest_stays_the_same_from_version_to_version() -> None:
    """A retry may reach a worker of another version than the first try did."""
    expected = "46728edf1263eea764e5ef94f0f0ddee45d519e61a1cf00d06aff00ff9f0a6c0"
    spec = replace(PERSONAL, hat_ids=(HatId("b"), HatId("a")))
    assert spec.digest(UserId("bob")).hex() == expected
