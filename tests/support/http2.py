"""A gRPC client that sends exactly the HTTP/2 frames it is given, good or bad, and records what comes back."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from h2.events import Event

PATIENCE = 60
"""Seconds after which a test gives up waiting."""
_FRAME_HEAD_BYTES = 9
_GOAWAY = 7
_ANY_STREAM = 2**31 - 1  # the last stream id in a first GOAWAY, which is not the real one yet (RFC 9113, 6.8)
_CODES = {str(code.value[0]): code for code in grpc.StatusCode}


def framed(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Return a message with its five-byte prefix. The length in the prefix is the one given, right or wrong."""
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


@dataclass
class Response:
    """The outcome of a call.

    Attributes:
        headers: The response's headers, or empty where none came.
        body: The bytes of all DATA frames.
        trailers: The trailers, or None where there was no second block of headers.
        reset: The error code with which the server reset the stream, or None.
    """

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] | None = None
    reset: int | None = None

    @property
    def status(self) -> dict[str, str]:
        """The headers with the status: the trailers or, in a trailers-only response, the headers."""
        return self.headers if self.trailers is None else self.trailers

    @property
    def code(self) -> grpc.StatusCode | None:
        """The status code, or None where there is no status."""
        return _CODES.get(self.status.get("grpc-status", ""))

    @property
    def details(self) -> str:
        """The status message."""
        reported = self.status.get("grpc-message", "")
        assert reported.isascii(), reported
        assert reported.isprintable(), reported
        return unquote(reported, errors="strict")

    @property
    def reason(self) -> str:
        """The reason in the status's only ErrorInfo, or empty where there are no details."""
        reported = self.status.get("grpc-status-details-bin")
        if reported is None:
            return ""
        status = Status.FromString(base64.b64decode(reported + "=" * (-len(reported) % 4), validate=True))
        assert (_CODES[str(status.code)], status.message) == (self.code, self.details)
        info = ErrorInfo()
        (packed,) = [each for each in status.details if each.Is(ErrorInfo.DESCRIPTOR)]
        packed.Unpack(info)
        return str(info.reason)

    @property
    def message(self) -> bytes:
        """The only message of a successful call."""
        assert self.code is grpc.StatusCode.OK, self
        assert self.body[:1] == b"\0"
        assert int.from_bytes(self.body[1:5], "big") == len(self.body) - 5
        return self.body[5:]


class Stream:
    """One call."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.number = number
        self.done = asyncio.Event()
        self._connection = connection
        self._response = Response()

    @property
    def body(self) -> bytes:
        """The bytes of the response body so far."""
        return bytes(self._response.body)

    async def send(self, *frames: bytes, end: bool = False) -> None:
        """Send DATA frames, which may be empty; end the stream after the last one if `end` is true.

        Each frame waits for the server's flow-control window. Nothing is sent once the server has ended the stream.
        """
        for number, data in enumerate(frames, 1):
            await self._connection.send(self, data, end=end and number == len(frames))

    def reset(self) -> None:
        """Cancel the call."""
        self._connection.reset(self)

    async def response(self) -> Response:
        """Wait for the end of the call and return its response."""
        async with asyncio.timeout(PATIENCE):
            await self.done.wait()
        return self._response

    def receive(self, event: Event) -> None:
        """Record an event that the server caused."""
        if self.done.is_set():
            return
        response = self._response
        match event:
            case ResponseReceived():
                response.headers = _fields(event.headers)
            case TrailersReceived():
                response.trailers = _fields(event.headers)
            case DataReceived():
                response.body += event.data
            case StreamReset():
                response.reset = int(event.error_code)
                self.done.set()
            case StreamEnded():
                self.done.set()


class Connection:
    """One HTTP/2 connection.

    Attributes:
        goaway: Set when the server sent GOAWAY, or is gone.
        last_goaway: Set when GOAWAY named the last stream that the server accepts, or the server is gone.
        ended: Set when the server is gone.
    """

    def __init__(self, authority: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The test decides what is sent, so the library must not check it.
        config = H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.goaway = asyncio.Event()
        self.last_goaway = asyncio.Event()
        self.ended = asyncio.Event()
        self._authority = authority
        self._reader = reader
        self._writer = writer
        self._http = H2Connection(config)
        self._streams: dict[int, Stream] = {}
        self._changed = asyncio.Condition()
        # How many SETTINGS frames were sent, the initial one included, and how many the server acknowledged.
        self._settings_sent = 1
        self._acknowledged = 0
        self._http.initiate_connection()
        self._flush()

    async def run(self) -> None:
        """Process what the server sends until it is gone."""
        try:
            while True:
                head = await self._reader.readexactly(_FRAME_HEAD_BYTES)
                frame = head + await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                # The library accepts no frame after GOAWAY, but running calls still receive theirs.
                if head[3] == _GOAWAY:
                    self._hear_goaway(frame)
                    continue
                for heard in self._http.receive_data(frame):
                    self._hear(heard)
                self._flush()
                async with self._changed:
                    self._changed.notify_all()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for event in (self.goaway, self.last_goaway, self.ended):
                event.set()
            for stream in self._streams.values():
                stream.done.set()
            async with self._changed:
                self._changed.notify_all()

    @property
    def local_address(self) -> str:
        """The local address, HOST:PORT."""
        host, port = self._writer.get_extra_info("sockname")
        return f"{host}:{port}"

    def call(
        self,
        path: str,
        fields: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        *,
        method: str = "POST",
        content_type: str | None = "application/grpc",
        end: bool = False,
    ) -> Stream:
        """Start a call with these header fields, besides those that every call has."""
        headers = [(":method", method), (":scheme", "http"), (":path", path), (":authority", self._authority)]
        if content_type is not None:
            headers.append(("content-type", content_type))
        headers += [("te", "trailers"), *dict(fields).items()]
        number = self._http.get_next_available_stream_id()
        stream = self._streams[number] = Stream(self, number)
        self._http.send_headers(number, headers, end_stream=end)
        self._flush()
        return stream

    async def settled(self) -> None:
        """Wait until the server has read all that was sent, or is gone."""
        # A ping would do as well, but a server may count too many pings as abuse.
        self._http.update_settings({SettingCodes.ENABLE_PUSH: 0})
        self._settings_sent += 1
        self._flush()
        number = self._settings_sent
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.ended.is_set() or self._acknowledged >= number)

    async def send(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Send a DATA frame."""
        assert len(data) <= self._http.max_outbound_frame_size, "this does not fit one frame"
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(
                lambda: stream.done.is_set() or len(data) <= self._http.local_flow_control_window(stream.number)
            )
        if not stream.done.is_set():
            self._http.send_data(stream.number, data, end_stream=end)
            self._flush()

    def reset(self, stream: Stream) -> None:
        """Cancel a call."""
        if not stream.done.is_set():
            stream.done.set()
            self._http.reset_stream(stream.number, ErrorCodes.CANCEL)
            self._flush()

    def _hear_goaway(self, frame: bytes) -> None:
        last_stream = int.from_bytes(frame[_FRAME_HEAD_BYTES : _FRAME_HEAD_BYTES + 4], "big")
        self.goaway.set()
        if last_stream < _ANY_STREAM:
            self.last_goaway.set()

    def _hear(self, event: Event) -> None:
        match event:
            case SettingsAcknowledged():
                self._acknowledged += 1
            case DataReceived() if event.flow_controlled_length:
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if stream is not None:
            stream.receive(event)

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Connection]:
    """Yield a connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Connection(address, reader, writer)
    running = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        writer.close()
        await running


def _fields(headers: Iterable[tuple[str | bytes, str | bytes]] | None) -> dict[str, str]:
    pairs = [(str(name), str(value)) for name, value in headers or ()]
    assert len(dict(pairs)) == len(pairs), "a header field is duplicated"
    return dict(pairs)
