"""The contract's ErrorReason, with what its comments say, is what the service sends."""

from __future__ import annotations

import re

import pytest

from skilder.keys.v1.errors_pb2 import ErrorReason
from skilder_keys.domain.errors import InvalidRequestError, KeysError
from skilder_keys.rpc.status import ERROR_DOMAIN, STATUS_CODES
from tests.docs import contract

PREFIX = "ERROR_REASON_"
COMMENTS = {value.name.removeprefix(PREFIX): value.comment for value in contract.enums()["ErrorReason"].values}
KINDS = {kind.reason: kind for kind in STATUS_CODES}


def test_every_reason_is_a_value_of_the_enum() -> None:
    """And every value but the first is a reason of the service."""
    assert ErrorReason.Value(f"{PREFIX}UNSPECIFIED") == 0
    assert set(COMMENTS) == {"UNSPECIFIED", *KINDS}
    assert f"`{ERROR_DOMAIN}`" in contract.enums()["ErrorReason"].comment


@pytest.mark.parametrize("kind", STATUS_CODES, ids=lambda kind: kind.reason)
def test_the_contract_says_what_an_error_has(kind: type[KeysError]) -> None:
    """Its status code, the names of its metadata, and which other details it has."""
    comment = COMMENTS[kind.reason]
    code, _, rest = comment.partition(". ")
    assert code == STATUS_CODES[kind].name
    _, _, metadata = rest.partition("Metadata:")
    assert tuple(re.findall(r"`(\w+)`", metadata)) == kind.metadata
    assert ("google.rpc.BadRequest" in rest) == issubclass(kind, InvalidRequestError)
    assert ("google.rpc.RetryInfo" in rest) == (kind.retry_after is not None)
