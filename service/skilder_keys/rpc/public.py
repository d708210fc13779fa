"""Public methods, which need no credentials: health and reflection. A transport limits how much they may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import Message

from skilder_keys.rpc.call_metrics import label_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Request = TypeVar("Request", bound=Message)


class PublicCall(Protocol):
    """A call of a public method."""

    async def read(self, request_type: type[Request]) -> Request | None:
        """Return the next request; None if the client sends no more.

        Raises:
            StatusError: The client sent something that is not a request.
        """

    async def write(self, response: bytes) -> None:
        """Send a response."""


@dataclass(frozen=True, slots=True)
class PublicMethod:
    """A public method.

    Attributes:
        path: Its path, e.g. `/grpc.health.v1.Health/Check`.
        request_type: The class of its requests.
        serve: Serves a call, with its first request. It may raise StatusError.
        lasting: Whether a call lasts until its client ends it.
    """

    path: str
    request_type: type[Message]
    serve: Callable[[PublicCall, Any], Awaitable[None]]
    lasting: bool = False

    @property
    def label(self) -> str:
        """The service and the method as in metrics, e.g. `Health/Check`."""
        return label_of(self.path)
