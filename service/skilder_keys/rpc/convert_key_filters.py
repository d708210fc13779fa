"""protobuf -> domain, for filters and orders of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from skilder_keys.app.enums import KEY_LIMITS, KEY_ORDERS, KEY_STATES, KEY_TYPES, POLICY_RULES, PRINCIPAL_KINDS
from skilder_keys.domain.ids import RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyFilter, KeyListing, KeyOrder
from skilder_keys.domain.principal import Principal
from skilder_keys.rpc.convert import bound, each, optional, required

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from skilder.keys.v1 import key_service_pb2

Value = TypeVar("Value")


def key_listing(request: key_service_pb2.ListKeysRequest) -> KeyListing:
    """Return what to list.

    Raises:
        InvalidRequestError: As for `key_filter`; or `order_by` is not an order.
    """
    order = optional("order_by", request.order_by, KEY_ORDERS) or KeyOrder.NEWEST
    return KeyListing(key_filter(request.workspace_id, request.filter), order)


def key_filter(workspace_id: str, message: key_service_pb2.KeyFilter) -> KeyFilter:
    """Return some of the keys of a workspace. An empty list or text is no condition.

    Raises:
        InvalidRequestError: A time, or a value of an enum, is invalid.
    """
    created_by = None
    if message.HasField("created_by"):
        kind = required("filter.created_by.kind", message.created_by.kind, PRINCIPAL_KINDS)
        created_by = Principal(kind, message.created_by.id)
    return KeyFilter(
        workspace_id=WorkspaceId(workspace_id),
        types=_unique(each("filter.types", message.types, KEY_TYPES)),
        states=_unique(each("filter.states", message.states, KEY_STATES)),
        user_ids=_unique(map(UserId, message.user_ids)),
        runtime_ids=_unique(map(RuntimeId, message.runtime_ids)),
        created_by=created_by,
        family_id=message.family_id or None,
        hint=message.hint or None,
        text=message.text or None,
        labels=_unique(message.labels),
        created_after=_time(message, "created_after"),
        created_before=_time(message, "created_before"),
        expires_after=_time(message, "expires_after"),
        expires_before=_time(message, "expires_before"),
        unused_since=_time(message, "unused_since"),
        unlimited=_unique(each("filter.unlimited", message.unlimited, KEY_LIMITS)),
        violating=_unique(each("filter.violating", message.violating, POLICY_RULES)),
    )


def _time(message: key_service_pb2.KeyFilter, name: str) -> datetime | None:
    """Return a time, or None if it is not set."""
    if not message.HasField(name):  # type: ignore[arg-type] # the name of a field
        return None
    return bound(f"filter.{name}", getattr(message, name))


def _unique(values: Iterable[Value]) -> tuple[Value, ...] | None:
    """Return each of some values once, or None if there are none."""
    return tuple(dict.fromkeys(values)) or None
