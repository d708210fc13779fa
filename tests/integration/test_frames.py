"""gRPC messages, frame by frame: every legal form is accepted, and an illegal one harms no other call.

The grpcio transport is tested as well as the Envoy transport, where clients should see the same.
"""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.frames import (
    AUTHORIZE,
    GZIP,
    KNOWN,
    LIMIT,
    WHOLE,
    Code,
    Served,
    ask,
    bytes_of,
    reason_of,
    request,
    start_call,
)
from tests.support.http2 import Connection, connected, framed
from tests.support.process import serving_process
from tests.support.workers import operator_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import psutil


ZIPPED = gzip.compress(WHOLE[5:])


SPLITS: dict[str, Callable[[bytes], list[bytes]]] = {
    "in one frame": lambda data: [data],
    "byte by byte": bytes_of,
    "inside the five bytes": lambda data: [data[:3], data[3:]],
    "after the five bytes": lambda data: [data[:5], data[5:]],
    "before the last byte": lambda data: [data[:-1], data[-1:]],
    "with empty frames": lambda data: [b"", data[:2], b"", data[2:5], b"", data[5:9], b"", data[9:]],
    "with many empty frames": lambda data: [*[b""] * 20, data[:3], *[b""] * 20, data[3:]],
    "with the end by itself": lambda data: [data, b""],
    "with empty frames and the end by itself": lambda data: [b"", data[:7], b"", data[7:], b""],
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=list(SPLITS))
async def test_a_message_may_be_split_in_any_way(
    served: Served, connection: Connection, split: Callable[[bytes], list[bytes]]
) -> None:
    """Whether its frames come all at once, or the server has read each before the next one comes."""
    expected = await served.service.operator.authorize(served.token, tool_id="slack.post")
    frames = split(request(served.token, tool_id="slack.post"))
    for see_each in (False, True):
        stream = connection.call(AUTHORIZE, KNOWN)
        for number, frame in enumerate(frames, 1):
            await stream.send(frame, end=number == len(frames))
            if see_each:
                await connection.settled()
        response = await stream.response()
        assert pb.AuthorizeResponse.FromString(response.message) == expected
        assert response.headers["content-type"] == "application/grpc"


async def test_calls_with_interleaved_frames_get_their_own_responses(served: Served, connection: Connection) -> None:
    """Whichever ends first."""
    tools = ["slack.post", "git.commit", "web.search"]
    streams = [connection.call(AUTHORIZE, KNOWN) for _ in tools]
    parts = zip(*(bytes_of(request(served.token, tool_id=tool)) for tool in tools), strict=True)
    for part in parts:
        for stream, byte in zip(streams, part, strict=True):
            await stream.send(byte)
    for tool, stream in reversed(list(zip(tools, streams, strict=True))):
        await stream.send(b"", end=True)
        message = (await stream.response()).message
        assert pb.AuthorizeResponse.FromString(message).granted.tool.tool.id == tool


@dataclass(frozen=True)
class Bad:
    """A malformed call.

    Attributes:
        frames: The frames to send.
        envoy: The status from the Envoy transport.
        grpcio: The status from the grpcio transport, or None where the call succeeds.
        fields: Additional header fields.
    """

    frames: Sequence[bytes]
    envoy: Code
    grpcio: Code | None
    fields: Mapping[str, str] | None = None


NO_MESSAGES = {
    "nothing": Bad([], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    "an empty frame": Bad([b""], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    "one byte": Bad([b"\0"], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    "four bytes": Bad([WHOLE[:2], WHOLE[2:4]], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    "five bytes alone": Bad([WHOLE[:5]], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    "too short": Bad([WHOLE[:-1]], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    "too short, in two frames": Bad([WHOLE[:6], WHOLE[6:-1]], Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT),
    # grpcio reads the first message and ignores the rest.
    "two messages": Bad([WHOLE + WHOLE], Code.INVALID_ARGUMENT, None),
    "two messages, in two frames": Bad([WHOLE, WHOLE], Code.INVALID_ARGUMENT, None),
    "an empty message more": Bad([WHOLE + framed(b"")], Code.INVALID_ARGUMENT, None),
    "a byte more": Bad([WHOLE + b"\0"], Code.INVALID_ARGUMENT, None),
    "a byte more, in a frame": Bad([WHOLE, b"\0"], Code.INVALID_ARGUMENT, None),
}


@pytest.mark.parametrize("bad", NO_MESSAGES.values(), ids=list(NO_MESSAGES))
async def test_anything_but_one_message_is_refused(served: Served, connection: Connection, bad: Bad) -> None:
    """With a reason and by headers alone, also where the frames come one after the other."""
    expected = bad.envoy if served.transport == "envoy" else bad.grpcio
    response = await ask(connection, *bad.frames)
    if expected is None:
        assert reason_of(response) == pb.DENIAL_REASON_MALFORMED
        return
    assert response.code is expected
    assert (response.trailers, response.body) == (None, b"")
    if expected is Code.INVALID_ARGUMENT:
        assert response.reason == "MALFORMED_MESSAGE"
        assert response.details
    slowly = await start_call(connection)
    for frame in bad.frames:
        await slowly.send(frame)
        await connection.settled()
    await slowly.send(b"", end=True)
    assert (await slowly.response()).code is expected


@pytest.mark.parametrize("flag", [2, 3, 128, 254, 255])
async def test_the_first_byte_is_0_or_1(served: Served, connection: Connection, flag: int) -> None:
    """With Envoy. grpcio checks some bits of the byte, if any, and may respond either way."""
    response = await ask(connection, framed(WHOLE[5:], flag=flag))
    if served.transport == "envoy":
        assert (response.code, response.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    else:
        assert response.code is not None


@pytest.mark.parametrize("length", [LIMIT + 1, 2**24, 2**31, 2**32 - 1])
@pytest.mark.parametrize("flag", [0, 1])
async def test_a_message_over_the_limit_is_refused_by_its_prefix(
    connection: Connection, length: int, flag: int
) -> None:
    """The five bytes of the prefix are enough; the server neither waits nor keeps memory for the rest."""
    stream = connection.call(AUTHORIZE, KNOWN | GZIP)
    await stream.send(framed(b"", flag=flag, length=length))
    response = await stream.response()
    assert response.code is Code.RESOURCE_EXHAUSTED
    assert f"({length} vs. {LIMIT})" in response.details


async def test_a_message_at_the_limit_is_read(connection: Connection) -> None:
    """In as many frames as it takes."""
    body = pb.AuthorizeRequest(token="x" * (LIMIT - 4)).SerializeToString()
    assert len(body) == LIMIT
    whole = framed(body)
    response = await ask(connection, *(whole[at : at + 2**14] for at in range(0, len(whole), 2**14)))
    assert reason_of(response) == pb.DENIAL_REASON_MALFORMED


@pytest.mark.parametrize(
    "frames",
    [[framed(ZIPPED, flag=1)], [framed(ZIPPED, flag=1)[:9], framed(ZIPPED, flag=1)[9:]], [WHOLE]],
    ids=["in one frame", "in two", "not compressed at all"],
)
async def test_a_compressed_message_is_read(connection: Connection, frames: list[bytes]) -> None:
    """A client that can compress need not compress each message."""
    assert reason_of(await ask(connection, *frames, fields=GZIP)) == pb.DENIAL_REASON_MALFORMED


async def test_grpcs_own_client_may_compress(served: Served) -> None:
    """It does so when compression is turned on, where that makes a message shorter."""
    one = pb.AuthorizeRequest(token=served.token, tool_id="slack.post")
    batch = served.service.operator.authorization.BatchAuthorize
    response = await batch(pb.BatchAuthorizeRequest(requests=[one] * 100), compression=grpc.Compression.Gzip)
    assert [each.granted.tool.tool.id for each in response.responses] == ["slack.post"] * 100


BADLY_COMPRESSED = {
    "no encoding named": Bad([framed(ZIPPED, flag=1)], Code.UNIMPLEMENTED, Code.INTERNAL),
    "identity": Bad([framed(ZIPPED, flag=1)], Code.UNIMPLEMENTED, Code.INTERNAL, {"grpc-encoding": "identity"}),
    "unknown": Bad([framed(ZIPPED, flag=1)], Code.UNIMPLEMENTED, Code.INTERNAL, {"grpc-encoding": "zstd"}),
    "rubbish": Bad([framed(b"rubbish", flag=1)], Code.INVALID_ARGUMENT, Code.INTERNAL, GZIP),
    "cut short": Bad([framed(ZIPPED[:-1], flag=1)], Code.INVALID_ARGUMENT, Code.INTERNAL, GZIP),
    "rubbish behind": Bad([framed(ZIPPED + b"x", flag=1)], Code.INVALID_ARGUMENT, Code.INTERNAL, GZIP),
    "wrong checksum": Bad([framed(ZIPPED[:-8] + bytes(8), flag=1)], Code.INVALID_ARGUMENT, Code.INTERNAL, GZIP),
    "too long": Bad(
        [framed(gzip.compress(bytes(LIMIT + 1)), flag=1)], Code.RESOURCE_EXHAUSTED, Code.RESOURCE_EXHAUSTED, GZIP
    ),
}


@pytest.mark.parametrize("bad", BADLY_COMPRESSED.values(), ids=list(BADLY_COMPRESSED))
async def test_a_message_that_cannot_be_decompressed_is_refused(
    served: Served, connection: Connection, bad: Bad
) -> None:
    """For an unknown encoding, the response lists the known ones."""
    response = await ask(connection, *bad.frames, fields=bad.fields)
    assert response.code is (bad.envoy if served.transport == "envoy" else bad.grpcio)
    assert response.details
    if response.code is Code.UNIMPLEMENTED:
        assert "gzip" in response.headers["grpc-accept-encoding"]


@asynccontextmanager
async def served_by_a_worker(
    folder: Path, database_url: str, transport: str
) -> AsyncIterator[tuple[Connection, dict[str, str], psutil.Process]]:
    """Serve with a worker process; yield a connection, a known caller's metadata, and the worker."""
    variables = {"TRANSPORT": transport, "DATABASE_URL": database_url, "MAX_MESSAGE_BYTES": str(LIMIT)}
    with serving_process(folder, **{f"SKILDER_KEYS_{name}": value for name, value in variables.items()}) as server:
        address = await asyncio.to_thread(lambda: server.address)
        async with connected(address) as connection:
            yield connection, dict(operator_metadata(server, folder)), server.workers()[0]


async def test_a_decompression_bomb_takes_no_memory(transport: str, database_url: str, tmp_path: Path) -> None:
    """A message that grows a thousandfold is decompressed only up to the limit, however many there are."""
    bomb = framed(gzip.compress(bytes(60 * 2**20)), flag=1)
    assert len(bomb) < LIMIT
    async with served_by_a_worker(tmp_path, database_url, transport) as (connection, known, worker):

        async def send() -> Code | None:
            frames = (bomb[at : at + 2**14] for at in range(0, len(bomb), 2**14))
            return (await ask(connection, *frames, fields=known | GZIP)).code

        assert reason_of(await ask(connection, WHOLE, fields=known)) == pb.DENIAL_REASON_MALFORMED
        before = most_memory(worker)
        assert set(await asyncio.gather(*(send() for _ in range(20)))) == {Code.RESOURCE_EXHAUSTED}
        assert most_memory(worker) - before < 30 * 2**20


def most_memory(process: psutil.Process) -> int:
    """Return the highest memory use that a process ever had, in bytes."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text("ascii").splitlines()
    except FileNotFoundError:
        pytest.skip("Linux is needed: /proc has what is measured")
    (kib,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kib) * 2**10
