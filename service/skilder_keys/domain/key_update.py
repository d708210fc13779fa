"""Changes of a key that exists."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from skilder_keys.domain.fields import MAX_KEY_DESCRIPTION, quoted
from skilder_keys.domain.key_spec import check_hat_ids, check_listed_once
from skilder_keys.domain.keys import KeyLimit
from skilder_keys.domain.labels import check_labels
from skilder_keys.domain.networks import check_networks, sorted_networks
from skilder_keys.domain.token import KeyType

if TYPE_CHECKING:
    from datetime import datetime

    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import HatId
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.labels import Label

LIMITS = {"expires_at": KeyLimit.EXPIRY, "hat_limit": KeyLimit.HATS, "network_limit": KeyLimit.NETWORKS}
"""The fields that are limits: what lifts each of them."""
FIELDS = ("description", "labels", *LIMITS)
"""The fields that can be changed."""


@dataclass(frozen=True, slots=True)
class KeyUpdate:
    """What to change about a key.

    Attributes:
        mask: The fields to change. The others stay as they are.
        given: The fields that have a value in the request, besides the id of the key.
        description: The new description, if the mask names it.
        expires_at: When the key expires from now on, if the mask names it; None to lift that.
        hat_ids: The hats that the key may reach from now on, if the mask names `hat_limit`; None for every hat.
        networks: The networks from which it may be used from now on, if the mask names `network_limit`; None for any.
        labels: The new labels, if the mask names them.
        unlimited: The limits to lift. A limit that the mask names needs a value or its name here, so that one that was
            forgotten, or computed as empty, lifts nothing.
        expected_version: The version that the key must have; None for any.
    """

    mask: tuple[str, ...]
    given: tuple[str, ...]
    description: str = ""
    expires_at: datetime | None = None
    hat_ids: tuple[HatId, ...] | None = None
    networks: tuple[str, ...] | None = None
    unlimited: tuple[KeyLimit, ...] = ()
    expected_version: int | None = None
    labels: tuple[Label, ...] = ()

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        names = ", ".join(FIELDS)
        if not self.mask:
            violations.add("update_mask", f"is required: name the fields to change, some of {names}")
        for index, path in enumerate(self.mask):
            if path not in FIELDS:
                violations.add(
                    f"update_mask.paths[{index}]", f"is {quoted(path)}, which cannot be changed; these can be: {names}"
                )
            elif path in self.mask[:index]:
                violations.add(f"update_mask.paths[{index}]", f"names {path} again")
        for name in self.given:
            if name not in FIELDS:
                violations.add(f"key.{name}", "cannot be changed: leave it out")
            elif name not in self.mask:
                violations.add(f"key.{name}", f"is set, but update_mask does not name it: add {name}, or leave it out")
        if "description" in self.mask:
            violations.text("key.description", self.description, maximum=MAX_KEY_DESCRIPTION)
        check_labels(violations, self.labels, "key.labels")
        self._check_limits(violations)
        check_hat_ids(violations, "key.hat_limit.hat_ids", self.hat_ids or ())
        if self.networks is not None:
            check_networks(violations, "key.network_limit.networks", self.networks)

    def _check_limits(self, violations: Violations) -> None:
        for name, limit in LIMITS.items():
            given, lifted = name in self.given, limit in self.unlimited
            if lifted and name not in self.mask:
                violations.add("unlimited", f"has KEY_LIMIT_{limit.name}, but update_mask does not name {name}")
            elif lifted and given:
                violations.add(
                    f"key.{name}", f"is set, but unlimited has KEY_LIMIT_{limit.name}: leave one of them out"
                )
                violations.add("unlimited", f"has KEY_LIMIT_{limit.name}, but key.{name} is set: leave one of them out")
            elif name in self.mask and not lifted and not given:
                violations.add(
                    f"key.{name}",
                    f"is required, as update_mask names it: set it, or lift it by KEY_LIMIT_{limit.name} in unlimited",
                )
        check_listed_once(violations, self.unlimited)

    def check_type(self, violations: Violations, type_: KeyType) -> None:
        """Add the fields that a key of this type cannot have."""
        if type_ is KeyType.RUNTIME and "hat_limit" in self.mask:
            violations.add("key.hat_limit", "cannot be changed: a runtime key has no tools")

    def changes(self, key: Key) -> dict[str, tuple[object, object]]:
        """Return the fields that will be different, with their value before and after, as JSON values."""
        wanted = {
            "description": (key.description, self.description),
            "labels": (_mapping(key.labels), _mapping(self.labels)),
            "expires_at": (_text(key.expires_at), _text(self.expires_at)),
            "hat_limit": (_list(key.hat_ids), _list(self.hat_ids)),
            "network_limit": (_usual(key.networks), _usual(self.networks)),
        }
        return {name: values for name, values in wanted.items() if name in self.mask and values[0] != values[1]}


def _mapping(labels: tuple[Label, ...]) -> dict[str, str]:
    return {label.name: label.value for label in labels}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _list(hat_ids: tuple[HatId, ...] | None) -> list[HatId] | None:
    return None if hat_ids is None else sorted(hat_ids)


def _usual(networks: tuple[str, ...] | None) -> list[str] | None:
    return None if networks is None else list(sorted_networks(map(ip_network, networks)))
