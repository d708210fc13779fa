"""A gRPC server that gives the answers of a script, good or bad, so that clients can be tested with all of them."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RemoteSettingsChanged, RequestReceived, StreamEnded, WindowUpdated
from hyperframe.frame import GoAwayFrame

from tests.support.http2 import framed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from google.protobuf.message import Message

Answer = dict[str, Any]
"""What is sent for one call, as clients/conformance/README.md describes."""
_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


@dataclass(frozen=True, slots=True)
class Seen:
    """A call that reached the server.

    Attributes:
        path: `/skilder.keys.v1.AuthorizationService/Authorize`, for example.
        headers: The request's headers.
        message: The request, as proto JSON.
    """

    path: str
    headers: Mapping[str, str]
    message: dict[str, Any]


@dataclass(slots=True)
class Script:
    """The answers to the calls of a case, in order, and the calls that came.

    Attributes:
        address: `127.0.0.1:PORT`.
    """

    answers: list[Answer]
    address: str = ""
    seen: list[Seen] = field(default_factory=list)

    def next(self) -> Answer:
        """Return the answer for the next call. The last one is for every later call, too, if it says so."""
        if len(self.answers) == 1 and self.answers[0].get("repeat"):
            return self.answers[0]
        return self.answers.pop(0) if self.answers else {"status": {"code": "INTERNAL", "message": "no answer is left"}}


@asynccontextmanager
async def scripted(answers: Sequence[Answer]) -> AsyncIterator[Script]:
    """Serve on a free port of 127.0.0.1."""
    script = Script(list(answers))
    connections: set[_Connection] = set()

    def connect() -> _Connection:
        connection = _Connection(script)
        connections.add(connection)
        return connection

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    script.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.close()
        for connection in connections:
            connection.end()


class _Connection(asyncio.Protocol):
    def __init__(self, script: Script) -> None:
        self._script = script
        self._http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._window = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._http.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name of the interface
        self.end()

    def end(self) -> None:
        """Cancel what is being answered, and close."""
        for call in self._calls:
            call.cancel()
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        for event in self._http.receive_data(data):
            match event:
                case RequestReceived(stream_id=int() as number, headers=headers):
                    self._requests[number] = (_fields(headers or ()), bytearray())
                case DataReceived(stream_id=number, data=chunk, flow_controlled_length=length):
                    self._requests[number][1].extend(chunk)
                    self._http.acknowledge_received_data(length, number)
                case StreamEnded(stream_id=int() as number):
                    self._start(number)
                case WindowUpdated() | RemoteSettingsChanged():
                    self._window.set()
        self._flush()

    def _start(self, number: int) -> None:
        headers, body = self._requests.pop(number)
        self._script.seen.append(Seen(headers[":path"], headers, _request(headers[":path"], bytes(body[5:]))))
        call = asyncio.get_running_loop().create_task(self._answer(number, headers[":path"], self._script.next()))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _answer(self, number: int, path: str, answer: Answer) -> None:
        await asyncio.sleep(answer.get("delay_ms", 0) / 1000)
        if "goaway" in answer:
            # Refused: this call was not processed. Else it is the last one that is.
            last = 0 if answer["goaway"] == "refused" else number
            self._flush()
            # Not by h2, which would send nothing more.
            self._write(GoAwayFrame(0, last_stream_id=last, error_code=ErrorCodes.NO_ERROR).serialize())
        messages = [answer["message"]] if "message" in answer else answer.get("messages", [])
        if messages or "http" in answer:
            status = str(answer.get("http", 200))
            self._http.send_headers(
                number, [(":status", status), ("content-type", answer.get("type", "application/grpc"))]
            )
        for message in messages:
            await self._send(number, framed(_response(path, message)))
        self._finish(number, answer, begun=bool(messages))
        self._flush()

    def _finish(self, number: int, answer: Answer, *, begun: bool) -> None:
        if "cut" in answer or answer.get("goaway") == "refused":
            assert self._transport is not None
            self._flush()
            if "goaway" in answer:
                self._transport.close()
            else:
                self._transport.abort()
        elif "reset" in answer:
            self._http.reset_stream(number, ErrorCodes[answer["reset"]])
        elif "http" in answer:
            self._http.end_stream(number)
        elif "hang" not in answer:
            trailers = _trailers(answer.get("status"))
            self._http.send_headers(number, trailers if begun else [*_HEADERS, *trailers], end_stream=True)

    async def _send(self, number: int, data: bytes) -> None:
        while data:
            self._window.clear()
            size = min(self._http.local_flow_control_window(number), self._http.max_outbound_frame_size, len(data))
            if size:
                self._http.send_data(number, data[:size])
                data = data[size:]
                self._flush()
            else:
                await self._window.wait()

    def _flush(self) -> None:
        self._write(self._http.data_to_send())

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _fields(headers: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}


def _method(path: str) -> tuple[type[Message], type[Message]]:
    service, name = path[1:].split("/")
    method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    return message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)


def _request(path: str, data: bytes) -> dict[str, Any]:
    return MessageToDict(_method(path)[0].FromString(data))


def _response(path: str, message: dict[str, Any]) -> bytes:
    """Return the bytes of a response. `+` is the hex of bytes to add, such as fields that only later versions have."""
    fields = {name: value for name, value in message.items() if name != "+"}
    return ParseDict(fields, _method(path)[1]()).SerializeToString() + bytes.fromhex(message.get("+", ""))


def _trailers(status: dict[str, Any] | None) -> list[tuple[str, str]]:
    if status is None:
        return [("grpc-status", "0")]
    code = str(grpc.StatusCode[status["code"]].value[0]) if isinstance(status["code"], str) else str(status["code"])
    message = status.get("message", "")
    trailers = [("grpc-status", code), ("grpc-message", quote(message, safe=" "))]
    if "reason" in status:
        details = Status(code=int(code), message=message)
        domain = status.get("domain", "keys.skilder")
        details.details.add().Pack(ErrorInfo(reason=status["reason"], domain=domain, metadata=status.get("metadata")))
        if "retry_after_ms" in status:
            wait = Duration()
            wait.FromMilliseconds(status["retry_after_ms"])
            details.details.add().Pack(RetryInfo(retry_delay=wait))
        encoded = base64.b64encode(details.SerializeToString()).decode().rstrip("=")
        trailers.append(("grpc-status-details-bin", encoded))
    return trailers
