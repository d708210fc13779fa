"""Methods that anybody may call, without credentials: health and reflection. A transport serves them within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Request = TypeVar("Request", bound=Message)


class PublicCall(Protocol):
    """A call of a method that anybody may call."""

    async def read(self, request_type: type[Request]) -> Request | None:
        """Return the next request; None where the client sends no more.

        Raises:
            StatusError: What the client sends is no request.
        """

    async def write(self, response: bytes) -> None:
        """Send a response."""


@dataclass(frozen=True, slots=True)
class PublicMethod:
    """A method that anybody may call.

    Attributes:
        path: Its path, e.g. `/grpc.health.v1.Health/Check`.
        request_type: The class of its requests.
        serve: Serves a call, whose first request has come. It may raise StatusError.
        lasting: Whether a call goes on until its client ends it.
    """

    path: str
    request_type: type[Message]
    serve: Callable[[PublicCall, Any], Awaitable[None]]
    lasting: bool = False

    @property
    def label(self) -> str:
        """The service and the method, as metrics name them."""
        service, _, name = self.path.removeprefix("/").partition("/")
        return f"{service.rpartition('.')[2]}/{name}"
