"""Random choices for the life of keys: which key to change, and to what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import key_pb2

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.life.model import KeyModel, ModelKey
    from tests.support.service import Client, Service

ANY: Any = object()
"""Instead of a value: chance decides."""
EVERY_HAT: Any = object()
"""Instead of a limit to hats: a limit that names every hat that the workspace has."""
FILTERS: tuple[dict[str, Any], ...] = (
    {"labels": ["team=a"]},
    {"labels": ["team", "env="]},
    {"text": "bot slack"},
    {"text": "agent"},
    {"states": [key_pb2.KEY_STATE_EXPIRED]},
    {"states": [key_pb2.KEY_STATE_SUSPENDED, key_pb2.KEY_STATE_MEMBER_REMOVED, key_pb2.KEY_STATE_WORKSPACE_GONE]},
    {"states": [key_pb2.KEY_STATE_ACTIVE], "types": [key_pb2.KEY_TYPE_USER], "text": "mail"},
    {"user_ids": ["user-0", "user-1"]},
)

NETWORKS = ("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32")
DESCRIPTIONS = ("slack bot", "mail bot", "mail agent")
OWNER = ("type", "user_id", "runtime_id")
SET_AT_ISSUE = ("description", "labels", "networks", "hats")
PATHS = {"networks": "network_limit", "hats": "hat_limit"}
LIMITS = {
    "expires_at": key_pb2.KEY_LIMIT_EXPIRY,
    "networks": key_pb2.KEY_LIMIT_NETWORKS,
    "hats": key_pb2.KEY_LIMIT_HATS,
}
POLICIES: tuple[dict[str, Any], ...] = (
    {"max_lifetime": timedelta(days=2)},
    {"max_active_keys_per_user": 1},
    {"require_hat_limit": True},
    {"unique_descriptions": True},
    {"max_lifetime": timedelta(days=2), "max_active_keys_per_user": 2, "unique_descriptions": True},
)
LABELS: tuple[dict[str, str], ...] = ({}, {"team": "a"}, {"team": "b", "env": ""})


class Choices:
    """Choices about the keys and workspaces of a model.

    Attributes:
        services: The services, of the same database.
        model: The model.
        source: Where chance comes from.
        last: The key that was chosen or made last.
        now: The time of the change before.
        in_family: How often a choice stays in the family of that key.
        of: Which generation of it is chosen: `first` or `last`; empty for any.
    """

    def __init__(self, services: list[Service], model: KeyModel, source: random.Random) -> None:
        self.services = services
        self.model = model
        self.source = source
        self.last: ModelKey | None = None
        self.now = datetime.max.replace(tzinfo=UTC)
        self.in_family = 0.4
        self.of = ""

    def key(self, wanted: Callable[[ModelKey], bool] = lambda _: True) -> ModelKey:
        """Return a key: often of the same family as the one before, else mostly one that is wanted and not revoked."""
        keys = list(self.model.keys.values())
        if self.last is not None and self.source.random() < self.in_family:
            keys = list(self.model.family(self.last))
        if self.of:
            self.last = keys[0 if self.of == "first" else -1]
            return self.last
        usual = [key for key in keys if not key.revoked]
        best = [key for key in usual if wanted(key)]
        self.last = self.source.choice(self.source.choice([best, best, best, best, usual, keys]) or usual or keys)
        return self.last

    def is_active(self, key: ModelKey) -> bool:
        """Return whether a key was active at the change before."""
        return self.model.state(key, self.now) == "ACTIVE"

    def owner(self, workspace: Workspace | None, kind: str = "") -> dict[str, Any]:
        """Return the type of a new key, and whose it is: of a kind, as the last one (`again`), or by chance."""
        if kind == "again" and self.last is not None:
            return {name: value for name in OWNER if (value := getattr(self.last, name))}
        kind = kind or self.source.choice(["runtime", "workspace", "workspace", "user", "user"])
        if kind == "runtime":
            return {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": self.source.choice(["r1", "r2"])}
        if kind == "workspace":
            return {"type": key_pb2.KEY_TYPE_WORKSPACE}
        members = [member.user_id for member in workspace.members] if workspace else ["user-0"]
        return {"type": key_pb2.KEY_TYPE_USER, "user_id": self.source.choice(members)}

    def new(self, names: Sequence[str], workspace: Workspace | None, said: dict[str, Any]) -> dict[str, Any]:
        """Return new values of some fields of a key, as the model has them: those that are said, and others by chance.

        A limit may be none.
        """
        source = self.source
        hats = [hat.id for hat in workspace.hats] if workspace else []
        limit = frozenset(source.sample(hats, source.randint(0, len(hats))))
        values = {
            "description": source.choice(DESCRIPTIONS),
            "labels": source.choice(LABELS),
            "networks": tuple(source.sample(NETWORKS, source.choice([0, 0, 1, 2]))),
            "hats": None if source.random() < 0.35 else limit,
        }
        values |= {name: frozenset(hats) if value is EVERY_HAT else value for name, value in said.items()}
        return {name: values[name] for name in names if name in values}

    def workspace_id(self) -> str:
        """Return the id of a workspace, rarely of a deleted one."""
        used = [*self.model.workspaces, *(key.workspace_id for key in self.model.keys.values())]
        return self.source.choice(used) if self.source.random() < 0.1 else self.living_id()

    def living_id(self) -> str:
        """Return the id of a workspace that exists."""
        return self.source.choice(list(self.model.workspaces))

    def client(self) -> Client:
        """Return the operator of one of the services."""
        return self.source.choice(self.services).operator


def message_fields(new: dict[str, Any]) -> dict[str, Any]:
    """Return fields of a key as its messages have them, without the limits that are none."""
    fields = {name: new[name] for name in ("description", "labels", "expires_at") if new.get(name) is not None}
    if new.get("networks"):
        fields["network_limit"] = {"networks": new["networks"]}
    if new.get("hats") is not None:
        fields["hat_limit"] = {"hat_ids": sorted(new["hats"])}
    return fields
