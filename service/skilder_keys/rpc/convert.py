"""protobuf <-> domain, for keys. Values without a counterpart in the domain are rejected; the domain checks others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import common_pb2, key_pb2, key_service_pb2, runtime_service_pb2
from skilder_keys.app.authorization.encoding import key_fields
from skilder_keys.app.enums import (
    KEY_ACTIONS,
    KEY_LIMITS,
    KEY_STATES,
    KEY_TYPES,
    POLICY_RULES,
    PREVIOUS_KEYS,
    PRINCIPAL_KINDS,
)
from skilder_keys.domain.access import Ability
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.ids import HatId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.labels import labels_of
from skilder_keys.domain.rotation import RotationSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from skilder_keys.app.page import Listed, Page
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.key_filter import KeyCounts
    from skilder_keys.domain.keys import Key
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
        unlimited=each("unlimited", request.unlimited, KEY_LIMITS),
        expires_at=moment("expires_at", request.expires_at) if request.HasField("expires_at") else None,
        lifetime=duration("lifetime", request.lifetime) if request.HasField("lifetime") else None,
        labels=labels_of(request.labels),
        previous_keys=optional("previous_keys", request.previous_keys, PREVIOUS_KEYS),
        networks=tuple(request.network_limit.networks) if request.HasField("network_limit") else None,
    )


def rotation_spec(
    request: key_service_pb2.RotateKeyRequest | runtime_service_pb2.RotateOwnKeyRequest,
) -> RotationSpec:
    """Return how to rotate a key.

    Raises:
        InvalidRequestError: A length of time or a time breaks the rules of its message.
    """
    expires_at = None
    if isinstance(request, key_service_pb2.RotateKeyRequest) and request.HasField("expires_at"):
        expires_at = moment("expires_at", request.expires_at)
    return RotationSpec(
        grace=duration("grace", request.grace) if request.HasField("grace") else None,
        expires_at=expires_at,
        lifetime=duration("lifetime", request.lifetime) if request.HasField("lifetime") else None,
    )


def key_message(key: Key, caller: Caller) -> key_pb2.Key:
    """Return a key as a message for a caller."""
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
        network_limit=None if key.networks is None else key_pb2.NetworkLimit(networks=key.networks),
        created_by=principal_message(key.created_by),
        revoked_by=principal_message(revocation.by) if revocation else None,
        expires_at=timestamp(key.expires_at) if key.expires_at else None,
        suspended_at=timestamp(suspension.at) if suspension else None,
        suspended_by=principal_message(suspension.by) if suspension else None,
        suspend_reason=suspension.reason if suspension else "",
        version=key.version,
        updated_at=timestamp(key.updated_at),
        labels={label.name: label.value for label in key.labels},
        predecessor_id=str(key.predecessor_id or ""),
        successor_id=str(key.successor_id or ""),
        violations=map(POLICY_RULES.__getitem__, key.violations),
        last_source_ip=key.last_source_ip,
        actions=map(KEY_ACTIONS.__getitem__, key.actions) if caller.may(Ability.KEYS_WRITE) else (),
    )


def principal_message(principal: Principal) -> common_pb2.Principal:
    """Return who did something as a message."""
    return common_pb2.Principal(kind=PRINCIPAL_KINDS[principal.kind], id=principal.id)


def list_keys_response(page: Page[Key], caller: Caller) -> bytes:
    """Return a ListKeysResponse for a caller, serialised."""
    return list_response(
        page,
        lambda keys, token: key_service_pb2.ListKeysResponse(
            keys=[key_message(key, caller) for key in keys], next_page_token=token
        ),
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


def count_keys_response(counted: KeyCounts) -> key_service_pb2.CountKeysResponse:
    """Return the numbers of keys in order of type and state."""
    messages = [
        key_service_pb2.KeyCount(type=KEY_TYPES[found.type], state=KEY_STATES[found.state], count=found.count)
        for found in counted.counts
    ]
    return key_service_pb2.CountKeysResponse(
        counts=sorted(messages, key=lambda message: (message.type, message.state)),
        partial=counted.partial,
    )


def timestamp(moment: datetime) -> Timestamp:
    """Return a time, which must have a time zone, as a Timestamp."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(field: str, message: Timestamp) -> datetime:
    """Return a Timestamp as a time.

    Raises:
        InvalidRequestError: It is not valid.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(FieldViolation(field, "is not a time between the years 1 and 9999")) from None


def bound(field: str, message: Timestamp) -> datetime:
    """Return a Timestamp with which times of the database are compared by "before" and "at or after".

    The database has microseconds, so a part of one is rounded up.

    Raises:
        InvalidRequestError: It is not valid.
    """
    time = moment(field, message)
    is_exact = message.nanos % 1000 == 0 or time == datetime.max.replace(tzinfo=UTC)
    return time if is_exact else time + timedelta(microseconds=1)


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


def each(field: str, numbers: Iterable[int], known: Mapping[Value, int]) -> tuple[Value, ...]:
    """Return the domain's values for the numbers of a list of enum values.

    Raises:
        InvalidRequestError: A number is zero, or not one of the enum.
    """
    return tuple(required(f"{field}[{index}]", number, known) for index, number in enumerate(numbers))


def optional(field: str, number: int, known: Mapping[Value, int]) -> Value | None:
    """Return the domain's value for the number of an enum; None for zero.

    Raises:
        InvalidRequestError: The number is not one of the enum.
    """
    for value, known_number in known.items():
        if known_number == number:
            return value
    if number:
        raise InvalidRequestError(FieldViolation(field, f"is {number}, which is not a value of the enum"))
    return None
