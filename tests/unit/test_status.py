"""Errors as gRPC statuses: one table, one ErrorInfo each, and never larger than a trailer may be."""

from __future__ import annotations

import base64
import importlib
import pkgutil
import re
import string
from typing import TYPE_CHECKING
from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

import skilder_keys
from skilder_keys.domain.errors import (
    BusyError,
    FieldViolation,
    InvalidRequestError,
    KeyNotFoundError,
    KeysError,
    UnavailableError,
    VersionMismatchError,
)
from skilder_keys.rpc.status import STATUS_CODES, trailing_status

if TYPE_CHECKING:
    from collections.abc import Iterator

# The size that clients accept: gRPC's default for GRPC_ARG_MAX_METADATA_SIZE.
MAX_TRAILER_BYTES = 8192


def kinds(parent: type[KeysError] = KeysError) -> Iterator[type[KeysError]]:
    """Yield a kind of error and all its subclasses, wherever in the service they are defined."""
    yield parent
    for child in parent.__subclasses__():
        yield from kinds(child)


for module in pkgutil.walk_packages(skilder_keys.__path__, "skilder_keys."):
    importlib.import_module(module.name)
KINDS = list(kinds())


def made(kind: type[KeysError]) -> KeysError:
    """Make an error with its kind's default message."""
    if issubclass(kind, InvalidRequestError):
        return kind(FieldViolation("type", "is required"))
    return kind(**dict.fromkeys(kind.metadata, "x"))


def details(status: grpc.Status) -> tuple[Status, list[ErrorInfo], list[BadRequest]]:
    """Unpack the details that are sent in the trailer, but for a RetryInfo."""
    ((name, value),) = status.trailing_metadata
    assert name == "grpc-status-details-bin"
    assert isinstance(value, bytes)
    packed = Status.FromString(value)
    infos, bad_requests, retries = [], [], 0
    for each in packed.details:
        info, bad_request = ErrorInfo(), BadRequest()
        if each.Unpack(info):
            infos.append(info)
        elif each.Unpack(bad_request):
            bad_requests.append(bad_request)
        else:
            retries += each.Is(RetryInfo.DESCRIPTOR)
    assert len(packed.details) == len(infos) + len(bad_requests) + retries
    return packed, infos, bad_requests


def trailer_bytes(status: grpc.Status) -> int:
    """Return the size of a status on the wire: percent-encoded and base64, 32 bytes a field (RFC 9113, 10.5.1)."""
    printable = string.punctuation.replace("%", "") + " "
    fields = {"grpc-status": b"13", "grpc-message": quote(status.details, safe=printable).encode()}
    for name, value in status.trailing_metadata:
        fields[name] = base64.b64encode(value if isinstance(value, bytes) else value.encode())
    return sum(len(name) + len(value) + 32 for name, value in fields.items())


def test_every_kind_of_error_has_a_status_code() -> None:
    """The table holds all of them and nothing else; an unexpected error is INTERNAL."""
    assert len(KINDS) > 10
    assert set(STATUS_CODES) == set(KINDS)
    assert STATUS_CODES[KeysError] is grpc.StatusCode.INTERNAL
    assert grpc.StatusCode.OK not in STATUS_CODES.values()


def test_every_kind_of_error_has_a_reason_of_its_own() -> None:
    """Programs tell errors apart by it (AIP-193): unique, UPPER_SNAKE_CASE, at most 63 characters."""
    reasons = [kind.reason for kind in KINDS]
    assert len(set(reasons)) == len(reasons)
    for reason in reasons:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", reason), reason


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_says_what_is_wrong(kind: type[KeysError]) -> None:
    """Each kind has a default message, one sentence; a given message replaces it."""
    assert re.fullmatch(r"[A-Z`][^\n]+\.|type is required|.+ listed\.", str(made(kind)))
    if not issubclass(kind, InvalidRequestError):
        assert str(kind("Something else.", **dict.fromkeys(kind.metadata, "x"))) == "Something else."


@pytest.mark.parametrize("kind", KINDS)
def test_every_status_has_one_error_info(kind: type[KeysError]) -> None:
    """With the reason, the domain and only the given metadata; code and message match the outer ones."""
    error = made(kind)
    status = trailing_status(error)
    packed, (info,), _ = details(status)
    assert (info.reason, info.domain, dict(info.metadata)) == (kind.reason, "keys.skilder", error.details)
    assert list(error.details) == list(kind.metadata)
    assert status.code is STATUS_CODES[kind]
    assert (packed.code, packed.message) == (status.code.value[0], status.details) == (packed.code, str(error))


def test_details_for_programs_are_in_the_error_info() -> None:
    """Under their names."""
    _, (info,), bad_requests = details(trailing_status(VersionMismatchError(current_version="7")))
    assert dict(info.metadata) == {"current_version": "7"}
    assert bad_requests == []


def test_an_error_has_the_details_of_its_kind() -> None:
    """None is forgotten, and there are no others."""
    with pytest.raises(TypeError, match="VersionMismatchError has the details"):
        VersionMismatchError()
    with pytest.raises(TypeError, match="KeyNotFoundError has the details"):
        KeyNotFoundError(key_id="7")


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_learns_when_to_try_again(kind: type[KeysError]) -> None:
    """If the service cannot serve the call now; a service that is too busy is left alone for longer."""
    packed, _, _ = details(trailing_status(made(kind)))
    found = [RetryInfo.FromString(each.value) for each in packed.details if each.Is(RetryInfo.DESCRIPTOR)]
    delays: dict[type[KeysError], int] = {UnavailableError: 1, BusyError: 2}
    seconds = delays.get(kind)
    assert [each.retry_delay.ToSeconds() for each in found] == ([] if seconds is None else [seconds])
    assert (seconds is not None) == (STATUS_CODES[kind] is grpc.StatusCode.UNAVAILABLE)


def test_an_unexpected_error_reveals_nothing() -> None:
    """The status is INTERNAL with a fixed sentence."""
    status = trailing_status(KeysError())
    assert status.code is grpc.StatusCode.INTERNAL
    assert status.details == "The service failed: see its log."


def test_fields_at_fault_are_in_a_bad_request() -> None:
    """Each with its path and what is wrong, in order."""
    error = InvalidRequestError(FieldViolation("a", "is odd"), FieldViolation("b[1].c", "is required"))
    _, _, (bad_request,) = details(trailing_status(error))
    found = [(each.field, each.description) for each in bad_request.field_violations]
    assert found == [("a", "is odd"), ("b[1].c", "is required")]


@pytest.mark.parametrize("kind", [KeyNotFoundError, UnavailableError])
def test_no_other_error_has_a_bad_request(kind: type[KeysError]) -> None:
    """Other errors blame no field."""
    _, _, bad_requests = details(trailing_status(kind()))
    assert bad_requests == []


def test_as_many_fields_are_reported_as_fit_a_trailer() -> None:
    """Of 100,000 fields at fault it holds the first ones and the total number."""
    fault = "names 'nobody', which does not exist"
    error = InvalidRequestError(
        *(FieldViolation(f"workspace.members[{at}].team_ids[0]", fault) for at in range(100_000))
    )
    status = trailing_status(error)
    assert trailer_bytes(status) < MAX_TRAILER_BYTES
    _, _, (bad_request,) = details(status)
    reported = [each.field for each in bad_request.field_violations]
    assert reported == [each.field for each in error.violations[: len(reported)]]
    assert len(reported) >= 20
    assert status.details.endswith("; and 99997 more")


@pytest.mark.parametrize(
    "value",
    ["x" * 128, "é" * 128, "日" * 128, "🤖" * 128, "\x00" * 128, "\U0010ffff" * 128, "'\"" * 64],
    ids=["ascii", "two bytes", "three bytes", "four bytes", "control", "unassigned", "quotes"],
)
def test_long_and_foreign_values_fit_a_trailer_too(value: str) -> None:
    """Checks quote up to 128 characters of a request, of any kind; all of that fits."""
    fault = f"names {value!r}, which does not exist"
    error = InvalidRequestError(*(FieldViolation(f"workspace.members[{at}].team_ids[0]", fault) for at in range(1000)))
    status = trailing_status(error)
    assert trailer_bytes(status) < MAX_TRAILER_BYTES
    _, _, (bad_request,) = details(status)
    assert bad_request.field_violations[0].field == "workspace.members[0].team_ids[0]"
