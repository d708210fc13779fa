"""The service as a runtime instance calls it, with its own token as the bearer."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from skilder.keys.v1 import authorization_service_pb2, runtime_service_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder.keys.v1.runtime_service_pb2_grpc import RuntimeServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skilder_keys.cli.runtime_agent.files import Rotation
    from skilder_keys.domain.token import Token

_LOOK_SECONDS = 10.0
_ROTATE_SECONDS = 20.0


class CallError(Exception):
    """A call failed.

    Attributes:
        code: The status code.
        reason: The service's reason; empty if the error does not come from the service.
        retry_after: How many seconds the service wants to be left alone.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        super().__init__(f"{self.code.name}: {' '.join((error.details() or '').split())}")
        info, retry = ErrorInfo(), RetryInfo()
        status = rpc_status.from_call(error)
        for packed in status.details if status is not None else ():
            if not packed.Unpack(info):
                packed.Unpack(retry)
        self.reason: str = info.reason
        self.retry_after: float = retry.retry_delay.ToTimedelta() / timedelta(seconds=1)


class Service:
    """Calls the service. Each call has a channel of its own: calls are rare, and names and certificates change."""

    def __init__(self, channel: Callable[[], grpc.Channel]) -> None:
        self._channel = channel

    def expires_at(self, token: Token) -> datetime | None:
        """Return when the key of a token expires; None for a key that does not.

        Raises:
            CallError: The call failed: with UNAUTHENTICATED if the token is not good any more.
        """
        request = authorization_service_pb2.AuthorizeRequest(token=token.reveal())
        with self._called(token) as (channel, metadata):
            stub: Any = AuthorizationServiceStub(channel)
            key = stub.Authorize(request, timeout=_LOOK_SECONDS, metadata=metadata).granted.key
        return key.expires_at.ToDatetime(UTC) if key.HasField("expires_at") else None

    def rotate(self, token: Token, rotation: Rotation) -> runtime_service_pb2.RotateOwnKeyResponse:
        """Rotate the key of a token, and return its successor and the successor's token.

        Raises:
            CallError: The call failed. If that was not the service's decision, the key may have been rotated.
        """
        request = runtime_service_pb2.RotateOwnKeyRequest(
            request_id=rotation.request_id, grace=_duration(rotation.grace), lifetime=_duration(rotation.lifetime)
        )
        with self._called(token) as (channel, metadata):
            stub: Any = RuntimeServiceStub(channel)
            response: runtime_service_pb2.RotateOwnKeyResponse = stub.RotateOwnKey(
                request, timeout=_ROTATE_SECONDS, metadata=metadata
            )
        return response

    @contextmanager
    def _called(self, token: Token) -> Iterator[tuple[grpc.Channel, tuple[tuple[str, str], ...]]]:
        try:
            with self._channel() as channel:
                yield channel, (("authorization", f"Bearer {token.reveal()}"),)
        except grpc.RpcError as error:
            raise CallError(error) from None


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
