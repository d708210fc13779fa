"""The client for programs with asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from skilder_keys_client import calls
from skilder_keys_client.connection import Bearer, Connection
from skilder_keys_client.deadlines import Deadline
from skilder_keys_client.errors import service_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from google.protobuf.message import Message

    from skilder_keys_client.decisions import Decision, Denied
    from skilder_keys_client.issued import IssuedKey
    from skilder_keys_client.queries import Query
    from skilder_keys_client.v1.authorization_service_pb2 import ToolSet
    from skilder_keys_client.v1.key_pb2 import Key
    from skilder_keys_client.v1.key_service_pb2 import (
        IssueKeyRequest,
        ListKeysRequest,
        RevokeKeyRequest,
        RevokeKeyResponse,
        RotateKeyRequest,
    )

Result = TypeVar("Result")


class AsyncClient:
    """Calls the service, by one connection, from one event loop.

    Every method raises ServiceError if its call fails, which says nothing about a token. `timeout` is in seconds, for
    the method as a whole, with its retries; each method has a default. Close the client or use `async with`.
    """

    def __init__(self, connection: Connection) -> None:
        credentials, options = connection.credentials(), connection.channel_options()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(connection.target, options)
        else:
            self._channel = grpc.aio.secure_channel(connection.target, credentials, options)
        self._bearer = Bearer(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls that are under way fail."""
        await self._channel.close()

    async def authorize(self, query: Query, *, timeout: float | None = None) -> Decision:
        """Decide about a token: return Granted or Denied."""
        return await self._run(calls.authorize(query), timeout)

    async def batch_authorize(self, queries: Sequence[Query], *, timeout: float | None = None) -> list[Decision]:
        """Decide about up to 1,000 tokens, in the order of the queries."""
        return await self._run(calls.batch_authorize(queries), timeout)

    async def read_tool_set(self, query: Query, *, timeout: float | None = None) -> ToolSet | Denied:
        """Read everything that a token reaches, however large it is. Do not ask about a single tool."""
        return await self._run(calls.read_tool_set(query), timeout)

    async def issue_key(self, request: IssueKeyRequest, *, timeout: float | None = None) -> IssuedKey:
        """Issue a key. Without a `request_id` it gets one. Set it, to be able to try again after an error."""
        return await self._run(calls.issue_key(request), timeout)

    async def rotate_key(self, request: RotateKeyRequest, *, timeout: float | None = None) -> IssuedKey:
        """Make a successor of a key. With `request_id` as in `issue_key`."""
        return await self._run(calls.rotate_key(request), timeout)

    async def revoke_key(self, request: RevokeKeyRequest, *, timeout: float | None = None) -> RevokeKeyResponse:
        """Revoke a key. From the moment that this returns, its token is denied everywhere."""
        response: RevokeKeyResponse = await self.call(request, timeout=timeout)
        return response

    async def list_keys(self, request: ListKeysRequest, *, timeout: float | None = None) -> AsyncIterator[Key]:
        """Iterate over keys, page by page; `timeout` is that of a page."""
        async for key in self.list(request, timeout=timeout):
            yield key

    async def list(self, request: Message, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """Iterate over what any request for a list asks for, page by page."""
        page_request = calls.first_page(request)
        while True:
            page = await self.call(page_request, timeout=timeout)
            for element in calls.elements(page):
                yield element
            page_request.page_token = page.next_page_token
            if not page_request.page_token:
                return

    async def call(self, request: Message, *, timeout: float | None = None) -> Any:  # noqa: ANN401 - the request's response
        """Make any other call: return the response of the method that the request belongs to."""
        return await self._run(calls.one(request), timeout)

    def stream(self, request: Message, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """Make a call that has a stream of responses, such as FollowEvents: iterate over them."""
        return self._stream(request, Deadline(timeout))

    async def _run(self, steps: calls.Calls[Result], timeout: float | None) -> Result:
        deadline = Deadline(timeout)
        try:
            request = next(steps)
            while True:
                if calls.method_of(request).streams:
                    request = steps.send([each async for each in self._stream(request, deadline)])
                else:
                    request = steps.send(await self._unary(request, deadline))
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _unary(self, request: Message, deadline: Deadline) -> Message:
        method = calls.method_of(request)
        call = self._channel.unary_unary(method.path, calls.serialize, method.response.FromString)
        try:
            response: Message | None = await call(
                request, timeout=deadline.left(method.path), metadata=self._bearer.metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        if response is None:  # which grpcio returns for an OK status without a message
            raise calls.unfit("The service sent no response.")
        return response

    async def _stream(self, request: Message, deadline: Deadline) -> AsyncIterator[Message]:
        method = calls.method_of(request)
        call = self._channel.unary_stream(method.path, calls.serialize, method.response.FromString)
        responses = call(request, timeout=deadline.left(method.path), metadata=self._bearer.metadata())
        try:
            async for response in responses:
                yield response
        except grpc.aio.AioRpcError as error:
            raise service_error(error) from error
        finally:
            responses.cancel()
