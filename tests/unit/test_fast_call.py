"""A call on the fast path, and where it falls back to the pipeline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.rpc.call_metrics import CallMetrics
from skilder_keys.transports.envoy.asgi import AsgiMethods
from skilder_keys.transports.envoy.fast_call import task_factory
from skilder_keys.transports.framing import framed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.rpc.context import Context
    from skilder_keys.transports.envoy.context import Event

_PATH = "/service/Method"
_CALLER = Caller("gateway", CallerRole.SERVICE)
_MAX_CALLS = 3
_MAX_BYTES = 100


class Memory:
    """A `FastPath` that knows one caller and some messages."""

    max_bytes = _MAX_BYTES

    def caller(self, credentials: str) -> Caller | None:
        """Know one caller."""
        return _CALLER if credentials == "known" else None

    def respond(self, message: bytes, caller: Caller, _began: float) -> bytes | None:
        """Know the messages that start with `known`."""
        assert caller is _CALLER
        return b"from memory" if message.startswith(b"known") else None


async def serve(context: Context) -> bytes:
    """Serve the calls that fall back to the pipeline."""
    return b"served: %s" % (await context.read(_MAX_BYTES))


class Call:
    """A call, as pyvoy makes it from what a client sends.

    Attributes:
        asked: The events that the application has received, in order.
        sent: The events that the application has sent.
        ended: Set when the call has ended in the pipeline.
    """

    def __init__(self, methods: AsgiMethods, **changed: object) -> None:
        """Start the call in a callback of the event loop, soon."""
        headers = [(b"content-type", b"application/grpc"), (b"authorization", b"known")]
        self._scope = {"raw_path": _PATH.encode(), "query_string": b"", "method": "POST", "headers": headers} | changed
        self._methods = methods
        self.asked: list[asyncio.Future[Event]] = []
        self.sent: list[Event] = []
        self.ended = asyncio.Event()
        asyncio.get_running_loop().call_soon(self._begin)

    def feed(self, body: bytes, *, more: bool = False) -> None:
        """Deliver the next piece of the request."""
        self.asked[-1].set_result({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        """Disconnect the client."""
        self.asked[-1].set_result({"type": "http.disconnect"})

    async def result(self) -> object:
        """Wait for the whole response, and return its body, or its status where there is no body."""
        async with asyncio.timeout(10):
            while not self.sent or (self.sent[0].get("trailers") and self.sent[-1]["type"] != "http.response.trailers"):
                await asyncio.sleep(0)
        return self.sent[1].get("body") or dict(self.sent[0]["headers"])[b"grpc-status"]

    async def end(self) -> None:
        """Wait until the call has ended in the pipeline."""
        async with asyncio.timeout(10):
            await self.ended.wait()

    def _begin(self) -> None:
        work = self._methods.start_call(self._scope, self._receive, self._send)
        task = task_factory(asyncio.get_running_loop(), work)
        task.add_done_callback(self._hear_end)

    def _hear_end(self, task: asyncio.Task[None]) -> None:
        task.result()
        self.ended.set()

    def _receive(self) -> asyncio.Future[Event]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def _send(self, event: Event) -> asyncio.Future[None]:
        self.sent.append(event)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


@pytest.fixture
async def methods() -> AsyncIterator[AsgiMethods]:
    """A method, and the tracker of its calls."""
    memory: Any = Memory()
    methods = AsgiMethods({_PATH: serve}, {_PATH: memory}, CallMetrics(), max_calls=_MAX_CALLS)
    loop = asyncio.get_running_loop()
    watch = loop.create_task(methods.watch())
    faults: list[Event] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    try:
        yield methods
    finally:
        loop.set_exception_handler(handler)
        watch.cancel()
    assert not methods.fast_calls
    assert not faults


async def until_fast(methods: AsgiMethods, number: int) -> None:
    """Wait until this many calls are on the fast path."""
    async with asyncio.timeout(10):
        while len(methods.fast_calls) != number:
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;a=b"])
async def test_a_message_that_memory_knows_takes_the_fast_path(methods: AsgiMethods, kind: bytes) -> None:
    """The request is received once, and the pipeline never sees the call."""
    call = Call(methods, headers=[(b"content-type", kind), (b"authorization", b"known")])
    await until_fast(methods, 1)
    call.feed(framed(b"known"))
    assert await call.result() == framed(b"from memory")
    assert len(call.asked) == 1
    assert not call.ended.is_set()


async def test_a_message_that_memory_does_not_know_falls_back(methods: AsgiMethods) -> None:
    """What was received already is not lost."""
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"other"))
    assert await call.result() == framed(b"served: other")
    assert len(call.asked) == 1
    await call.end()


@pytest.mark.parametrize("message", [b"known", b"other"])
async def test_a_call_that_has_to_wait_waits_in_the_pipeline(methods: AsgiMethods, message: bytes) -> None:
    """The pipeline has a time limit. The request is received only once."""
    call = Call(methods)
    await until_fast(methods, 1)
    await until_fast(methods, 0)
    assert len(call.asked) == 1
    call.feed(framed(message))
    assert await call.result() == framed(b"served: " + message)
    await call.end()


async def test_a_message_that_arrives_during_the_fallback_is_served(methods: AsgiMethods) -> None:
    """In whichever order the loop runs the two."""
    call = Call(methods)
    await until_fast(methods, 1)
    for fast in methods.fast_calls:
        asyncio.get_running_loop().call_soon(fast.fall_back)
    call.feed(framed(b"known"))
    assert await call.result() == framed(b"from memory")
    assert not call.ended.is_set()


@pytest.mark.parametrize("first", [7, len(framed(b"known"))], ids=["in two pieces", "all but its end"])
async def test_a_request_in_several_pieces_falls_back(methods: AsgiMethods, first: int) -> None:
    """Each piece is received once."""
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"known")[:first], more=True)
    async with asyncio.timeout(10):
        while len(call.asked) < 2:
            await asyncio.sleep(0)
    assert not methods.fast_calls
    call.feed(framed(b"known")[first:])
    assert await call.result() == framed(b"served: known")


@pytest.mark.parametrize("fast", [1, 0])
async def test_a_client_that_disconnects_leaves_nothing_behind(methods: AsgiMethods, fast: int) -> None:
    """No response is sent and its slot is free again, on the fast path and in the pipeline."""
    calls = [Call(methods) for _ in range(_MAX_CALLS)]
    await until_fast(methods, _MAX_CALLS)
    await until_fast(methods, fast * _MAX_CALLS)
    for call in calls:
        call.hang_up()
    for call in calls:
        await call.end()
        assert not call.sent
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"known"))
    assert await call.result() == framed(b"from memory")


async def test_a_message_over_the_limit_falls_back(methods: AsgiMethods) -> None:
    """The pipeline reports the error."""
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"known".ljust(_MAX_BYTES + 1)))
    assert await call.result() == b"8", "RESOURCE_EXHAUSTED"
    await call.end()


async def test_waiting_calls_count_against_the_limit(methods: AsgiMethods) -> None:
    """On the fast path and in the pipeline. Further calls are rejected until one has ended."""
    calls = [Call(methods) for _ in range(_MAX_CALLS)]
    for fast in (_MAX_CALLS, 0):
        await until_fast(methods, fast)
        one_more = Call(methods)
        assert await one_more.result() == b"8", "RESOURCE_EXHAUSTED"
        assert not one_more.asked
    calls[0].feed(framed(b"other"))
    await calls[0].result()
    call = Call(methods)
    await until_fast(methods, 1)
    for each in [call, *calls[1:]]:
        each.feed(framed(b"known"))
        await each.result()


@pytest.mark.parametrize(
    "changed",
    [
        {"query_string": b"a=b"},
        {"raw_path": b"/service/Other"},
        {"method": "GET"},
        {"headers": [(b"content-type", b"text/plain"), (b"authorization", b"known")]},
        {"headers": [(b"content-type", b"application/grpc"), (b"authorization", b"other")]},
        {"headers": [(b"content-type", b"application/grpc")]},
        {"headers": []},
    ],
    ids=str,
)
async def test_an_unusual_call_is_served_by_the_pipeline(methods: AsgiMethods, changed: Event) -> None:
    """From the start, whatever its outcome."""
    call = Call(methods, **changed)
    async with asyncio.timeout(10):
        while not (call.asked or call.sent):
            await asyncio.sleep(0)
            assert not methods.fast_calls
    if call.asked:
        call.feed(framed(b"known"))
        assert await call.result() == framed(b"served: known")
        assert len(call.asked) == 1
    await call.end()
