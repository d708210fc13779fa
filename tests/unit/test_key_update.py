"""What to change about a key: the checks of an update, and what it changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import UpdateKeyRequest
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import HatId
from skilder_keys.domain.key_update import FIELDS, LIMITS, KeyUpdate
from skilder_keys.domain.keys import KeyLimit
from skilder_keys.domain.labels import Label
from skilder_keys.domain.token import KeyType
from skilder_keys.rpc.convert import timestamp
from skilder_keys.rpc.convert_key_updates import key_update
from tests.support.plain_keys import plain_key

LATER = datetime(2030, 1, 1, tzinfo=UTC)
A, B = HatId("a"), HatId("b")
NONE = KeyUpdate((), ())
ALL = KeyUpdate(FIELDS, FIELDS, "another", LATER, (A, B), ("10.0.0.0/8",), (), 7, (Label("team", "a"),))
LIFT = replace(NONE, mask=tuple(LIMITS), unlimited=tuple(LIMITS.values()))


def without(limit: KeyLimit) -> tuple[KeyLimit, ...]:
    """Return the other limits."""
    return tuple(each for each in LIFT.unlimited if each is not limit)


def faults(update: KeyUpdate, type_: KeyType = KeyType.WORKSPACE) -> dict[str, str]:
    """Return the errors, by field."""
    violations = Violations()
    update.check(violations)
    update.check_type(violations, type_)
    try:
        violations.raise_if_any()
    except InvalidRequestError as error:
        return {each.field: each.description for each in error.violations}
    return {}


def test_a_message_is_converted_with_every_field() -> None:
    """An empty limit is a limit, and what is not set is None."""
    request = UpdateKeyRequest()
    assert key_update(request) == NONE
    request.key.id = "x"
    request.key.description = "another"
    request.key.expires_at.CopyFrom(timestamp(LATER))
    request.key.hat_limit.hat_ids.extend("ab")
    request.key.network_limit.networks.append("10.0.0.0/8")
    request.key.labels["team"] = "a"
    request.update_mask.paths.extend(FIELDS)
    request.expected_version = 7
    assert replace(key_update(request), given=FIELDS) == ALL
    assert set(key_update(request).given) == set(FIELDS)
    request.key.hat_limit.Clear()
    request.key.hat_limit.SetInParent()
    request.unlimited.append(key_pb2.KEY_LIMIT_EXPIRY)
    update = key_update(request)
    assert (update.hat_ids, "hat_limit" in update.given, update.unlimited) == ((), True, (KeyLimit.EXPIRY,))


def test_every_limit_can_be_lifted() -> None:
    """And a limit without a field to change would be forgotten here."""
    assert set(LIMITS.values()) == set(KeyLimit)


@pytest.mark.parametrize(
    "update",
    [
        ALL,
        LIFT,
        replace(NONE, mask=("description",), given=("description",), description="x"),
        replace(NONE, mask=("hat_limit",), given=("hat_limit",), hat_ids=()),
    ],
)
def test_good_updates_pass(update: KeyUpdate) -> None:
    """Each field alone or with others, set or lifted."""
    assert faults(update) == {}


@pytest.mark.parametrize(
    ("update", "field", "words"),
    [
        (NONE, "update_mask", "is required: name the fields to change"),
        (replace(ALL, mask=(*FIELDS, "user_id")), "update_mask.paths[5]", "is 'user_id', which cannot be changed"),
        (replace(ALL, mask=(*FIELDS, "*")), "update_mask.paths[5]", "is '*', which cannot be changed"),
        (replace(ALL, mask=(*FIELDS, "hat_limit.hat_ids")), "update_mask.paths[5]", "which cannot be changed"),
        (replace(ALL, mask=(*FIELDS, "")), "update_mask.paths[5]", "which cannot be changed; these can be"),
        (replace(ALL, mask=(*FIELDS, "description")), "update_mask.paths[5]", "names description again"),
        (replace(ALL, given=(*FIELDS, "state")), "key.state", "cannot be changed: leave it out"),
        (replace(ALL, mask=FIELDS[1:]), "key.description", "is set, but update_mask does not name it"),
        (replace(ALL, description=""), "key.description", "is required"),
        (replace(ALL, description="x" * 201), "key.description", "has 201 characters"),
        (replace(ALL, hat_ids=(A, A)), "key.hat_limit.hat_ids[1]", "names 'a' again"),
        (replace(ALL, hat_ids=(A, HatId("b c"))), "key.hat_limit.hat_ids[1]", "is 'b c'"),
        (replace(LIFT, unlimited=(*LIFT.unlimited, KeyLimit.HATS)), "unlimited[3]", "names KEY_LIMIT_HATS again"),
        (replace(LIFT, unlimited=without(KeyLimit.EXPIRY)), "key.expires_at", "is required, as update_mask names it"),
        (replace(LIFT, unlimited=without(KeyLimit.HATS)), "key.hat_limit", "is required, as update_mask names it"),
        (replace(LIFT, unlimited=without(KeyLimit.NETWORKS)), "key.network_limit", "is required, as update_mask"),
        (replace(LIFT, mask=FIELDS[3:]), "unlimited", "has KEY_LIMIT_EXPIRY, but update_mask does not name expires"),
        (replace(ALL, labels=(Label("a b", ""),)), "key.labels", "has 'a b='"),
        (replace(ALL, networks=()), "key.network_limit.networks", "is empty: name the networks"),
        (replace(ALL, networks=("10.0.0.1/8",)), "key.network_limit.networks[0]", "write 10.0.0.0/8"),
    ],
)
def test_a_field_at_fault_is_named(update: KeyUpdate, field: str, words: str) -> None:
    """That field, and no other."""
    found = faults(update)
    assert list(found) == [field]
    assert words in found[field]


def test_a_limit_is_set_or_lifted_and_not_both() -> None:
    """Both places are named."""
    for name, limit in LIMITS.items():
        both = replace(ALL, unlimited=(limit,))
        assert list(faults(both)) == [f"key.{name}", "unlimited"]


def test_a_runtime_key_has_no_hats_to_limit() -> None:
    """Everything else about it can be changed."""
    assert list(faults(ALL, KeyType.RUNTIME)) == ["key.hat_limit"]
    others = tuple(each for each in FIELDS if each != "hat_limit")
    assert faults(replace(ALL, mask=others, given=others, hat_ids=None), KeyType.RUNTIME) == {}


@pytest.mark.parametrize(
    ("update", "key", "expected"),
    [
        (ALL, {}, set(FIELDS)),
        (
            ALL,
            {
                "description": "another",
                "expires_at": LATER,
                "hat_ids": (B, A),
                "networks": ("10.0.0.0/8",),
                "labels": ALL.labels,
            },
            set(),
        ),
        (replace(ALL, mask=("description",)), {}, {"description"}),
        (LIFT, {}, set()),
        (LIFT, {"expires_at": LATER, "hat_ids": (), "networks": ("::/0",)}, set(LIMITS)),
        (replace(ALL, hat_ids=()), {"hat_ids": (A,)}, set(FIELDS)),
        (
            replace(ALL, networks=("10.0.0.0/8", "1.0.0.0/8"), mask=FIELDS[4:]),
            {"networks": ("1.0.0.0/8",)},
            set(FIELDS[4:]),
        ),
        (
            replace(ALL, networks=("FE80::/16", "1.0.0.0/8"), mask=FIELDS[4:]),
            {"networks": ("1.0.0.0/8", "fe80::/16")},
            set(),
        ),
    ],
)
def test_what_is_different_is_changed(update: KeyUpdate, key: dict[str, Any], expected: set[str]) -> None:
    """Of what the mask names, in whatever order the hats are."""
    assert set(update.changes(plain_key(**key))) == expected


def test_changes_show_the_values_before_and_after() -> None:
    """As JSON has them."""
    changes = ALL.changes(plain_key(hat_ids=()))
    assert changes == {
        "description": ("a key", "another"),
        "expires_at": (None, "2030-01-01T00:00:00+00:00"),
        "hat_limit": ([], ["a", "b"]),
        "network_limit": (None, ["10.0.0.0/8"]),
        "labels": ({}, {"team": "a"}),
    }
