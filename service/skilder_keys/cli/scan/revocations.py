"""Revoke the keys whose tokens were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skilder.keys.v1 import key_pb2
    from skilder_keys.cli.client import Connection
    from skilder_keys.domain.token import Token

MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a token.

    Attributes:
        token: The token. Print its hint and its id only.
        key: The revoked key, or None if the service has no key with this token.
        before: Whether the key was revoked before, for another reason.
    """

    token: Token
    key: key_pb2.Key | None
    before: bool = False


def revoke(service: Connection, found: Mapping[Token, str]) -> Iterator[Outcome]:
    """Revoke the key of each token, if the service has one, and yield what became of it.

    Args:
        service: The service.
        found: The reason for each token: where it was found.
    """
    with service.stub(KeyServiceStub) as stub:
        for token, place in found.items():
            reason = f"found by a scan: {place}"[:MAX_REASON]
            try:
                key = stub.RevokeKey(pb.RevokeKeyRequest(token=token.reveal(), reason=reason)).key
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                yield Outcome(token, None)
            else:
                yield Outcome(token, key, before=key.revoke_reason != reason)
