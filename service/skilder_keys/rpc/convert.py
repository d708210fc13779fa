"""protobuf <-> domain, for keys. Values without a counterpart in the domain are rejected; the domain checks others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import common_pb2, key_pb2, key_service_pb2
from skilder_keys.app.authorization.encoding import key_fields
from skilder_keys.app.enums import KEY_LIMITS, KEY_STATES, KEY_TYPES, PRINCIPAL_KINDS
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.ids import HatId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.keys import Key, KeyCounts, KeyFilter, KeySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from skilder_keys.app.page import Listed, Page
    from skilder_keys.domain.principal import Principal

Value = TypeVar("Value")

MAX_PAGE_BYTES = 3 * 2**20
"""The most bytes of the elements of a page. Clients take responses of 4 MiB by default."""


def key_spec(request: key_service_pb2.IssueKeyRequest) -> KeySpec:
    """Return the key to issue.

    Raises:
        InvalidRequestError: `type` is missing or unknown, a value of `unlimited` is, or the expiry is no time.
    """
    return KeySpec(
        type=required("type", request.type, KEY_TYPES),
        workspace_id=WorkspaceId(request.workspace_id),
        user_id=UserId(request.user_id) if request.user_id else None,
        runtime_id=RuntimeId(request.runtime_id) if request.runtime_id else None,
        description=request.description,
        hat_ids=tuple(map(HatId, request.hat_limit.hat_ids)) if request.HasField("hat_limit") else None,
        unlimited=_each("unlimited", request.unlimited, KEY_LIMITS),
        expires_at=_datetime("expires_at", request.expires_at) if request.HasField("expires_at") else None,
        lifetime=duration("lifetime", request.lifetime) if request.HasField("lifetime") else None,
    )


def key_filter(workspace_id: str, message: key_service_pb2.KeyFilter) -> KeyFilter:
    """Return some of the keys of a workspace. An empty list is no condition.

    Raises:
        InvalidRequestError: A value of `filter.types` or `filter.states`, or `filter.unused_since` is invalid.
    """
    unused_since = message.unused_since if message.HasField("unused_since") else None
    return KeyFilter(
        workspace_id=WorkspaceId(workspace_id),
        types=_unique(_each("filter.types", message.types, KEY_TYPES)),
        states=_unique(_each("filter.states", message.states, KEY_STATES)),
        user_ids=_unique(map(UserId, message.user_ids)),
        unused_since=None if unused_since is None else _datetime("filter.unused_since", unused_since),
    )


def key_message(key: Key) -> key_pb2.Key:
    """Return a key as a message."""
    revocation, suspension = key.revocation, key.suspension
    return key_pb2.Key(
        **key_fields(key),
        hint=key.hint,
        state=KEY_STATES[key.state],
        created_at=timestamp(key.created_at),
        last_used_at=timestamp(key.last_used_at) if key.last_used_at else None,
        revoked_at=timestamp(revocation.at) if revocation else None,
        revoke_reason=revocation.reason if revocation else "",
        hat_limit=None if key.hat_ids is None else key_pb2.HatLimit(hat_ids=key.hat_ids),
        created_by=_principal(key.created_by),
        revoked_by=_principal(revocation.by) if revocation else None,
        expires_at=timestamp(key.expires_at) if key.expires_at else None,
        suspended_at=timestamp(suspension.at) if suspension else None,
        suspended_by=_principal(suspension.by) if suspension else None,
        suspend_reason=suspension.reason if suspension else "",
        version=key.version,
        updated_at=timestamp(key.updated_at),
    )


def _principal(principal: Principal) -> common_pb2.Principal:
    return common_pb2.Principal(kind=PRINCIPAL_KINDS[principal.kind], id=principal.id)


def list_keys_response(page: Page[Key]) -> bytes:
    """Return a ListKeysResponse, serialised."""
    return list_response(
        page, lambda keys, token: key_service_pb2.ListKeysResponse(keys=map(key_message, keys), next_page_token=token)
    )


def list_response(
    page: Page[Listed], response: Callable[[Sequence[Listed], str], Message], room: int = MAX_PAGE_BYTES
) -> bytes:
    """Return the response of a method that lists, serialised.

    It ends early if the next element would make it too long.

    Args:
        page: The page.
        response: Makes a response of some elements and a page token. Concatenated, several are one response.
        room: The most bytes of the elements.
    """
    pieces: list[bytes] = []
    size = 0
    for element in page.elements:
        piece = response([element], "").SerializeToString()
        size += len(piece)
        if size > room:
            break
        pieces.append(piece)
    token = page.next_page_token(len(pieces))
    return b"".join((*pieces, response([], token).SerializeToString()))


def count_keys_response(found: KeyCounts) -> key_service_pb2.CountKeysResponse:
    """Return the numbers of keys in order of type and state."""
    messages = [
        key_service_pb2.KeyCount(type=KEY_TYPES[each.type], state=KEY_STATES[each.state], count=each.count)
        for each in found.counts
    ]
    return key_service_pb2.CountKeysResponse(
        counts=sorted(messages, key=lambda each: (each.type, each.state)),
        partial=found.partial,
    )


def timestamp(moment: datetime) -> Timestamp:
    """Return a time, which must have a time zone, as a Timestamp."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _datetime(field: str, message: Timestamp) -> datetime:
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(FieldViolation(field, "is not a time between the years 1 and 9999")) from None


def duration(field: str, message: Duration) -> timedelta:
    """Return a length of time, to the microsecond.

    Raises:
        InvalidRequestError: The message breaks the rules of Duration.
    """
    try:
        message.ToJsonString()  # which checks it
        return message.ToTimedelta()
    except (ValueError, OverflowError):
        words = (
            "is not a length of time: seconds and nanos of the same sign, nanos below a second, at most 10,000 years"
        )
        raise InvalidRequestError(FieldViolation(field, words)) from None


def required(field: str, number: int, known: Mapping[Value, int]) -> Value:
    """Return the domain's value for the number of an enum.

    Raises:
        InvalidRequestError: The number is zero, or not one of the enum.
    """
    value = optional(field, number, known)
    if value is None:
        raise InvalidRequestError(FieldViolation(field, "is required"))
    return value


def _each(field: str, numbers: Iterable[int], known: Mapping[Value, int]) -> tuple[Value, ...]:
    return tuple(required(f"{field}[{index}]", number, known) for index, number in enumerate(numbers))


def _unique(values: Iterable[Value]) -> tuple[Value, ...] | None:
    """Return each of some values once, or None if there are none."""
    return tuple(dict.fromkeys(values)) or None


def optional(field: str, number: int, known: Mapping[Value, int]) -> Value | None:
    """Return the domain's value for the number of an enum; None for zero.

    Raises:
        InvalidRequestError: The number is not one of the enum.
    """
    for value, each in known.items():
        if each == number:
            return value
    if number:
        raise InvalidRequestError(FieldViolation(field, f"is {number}, which is not a value of the enum"))
    return None
