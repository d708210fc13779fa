"""A call on the fast path, and where it falls back to the pipeline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.transports.envoy.asgi import AsgiMethods
from skilder_keys.transports.framing import framed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.rpc.context import Context
    from skilder_keys.transports.envoy.context import Event
    from skilder_keys.transports.envoy.eager_task import EagerTask

_PATH = "/service/Method"
_CALLER = Caller("gateway", CallerRole.SERVICE)
_MAX_CALLS = 3
_MAX_BYTES = 100


class Memory:
    """A method as far as memory is enough for it, which is for one caller and some messages; as `pipeline.FastPath`."""

    max_bytes = _MAX_BYTES

    def caller(self, credentials: str) -> Caller | None:
        """Knows one."""
        return _CALLER if credentials == "known" else None

    def respond(self, message: bytes, caller: Caller) -> bytes | None:
        """Knows those that say so."""
        assert caller is _CALLER
        return b"from memory" if message.startswith(b"known") else None


async def serve(context: Context) -> bytes:
    """Serve what goes the pipeline."""
    return b"served: %s" % (await context.read(_MAX_BYTES))


class Call:
    """A call, as pyvoy makes it of what a client sends.

    Attributes:
        asked: The events that the application has asked for, in order.
        sent: Those that it has sent.
        ended: Set when it has ended in the pipeline.
    """

    def __init__(self, methods: AsgiMethods, **changed: object) -> None:
        """Start it in a callback of the event loop, soon."""
        headers = [(b"content-type", b"application/grpc"), (b"authorization", b"known")]
        self._scope = {"raw_path": _PATH.encode(), "query_string": b"", "method": "POST", "headers": headers} | changed
        self._methods = methods
        self.asked: list[asyncio.Future[Event]] = []
        self.sent: list[Event] = []
        self.ended = asyncio.Event()
        asyncio.get_running_loop().call_soon(self._begin)

    def feed(self, body: bytes, *, more: bool = False) -> None:
        """Send what comes next of the request."""
        self.asked[-1].set_result({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        """Has the client go away."""
        self.asked[-1].set_result({"type": "http.disconnect"})

    async def answer(self) -> object:
        """Return the body, or the status where there is none, when all of it was sent."""
        async with asyncio.timeout(10):
            while not self.sent or (self.sent[0].get("trailers") and self.sent[-1]["type"] != "http.response.trailers"):
                await asyncio.sleep(0)
        return self.sent[1].get("body") or dict(self.sent[0]["headers"])[b"grpc-status"]

    async def end(self) -> None:
        """Return when it has ended in the pipeline."""
        async with asyncio.timeout(10):
            await self.ended.wait()

    def _begin(self) -> None:
        task: Any = self._methods.start_call(self._scope, self._receive, self._send)
        task.add_done_callback(self._hear_end)

    def _hear_end(self, task: EagerTask) -> None:
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
    """A method, and the watch over its calls."""
    memory: Any = Memory()
    methods = AsgiMethods({_PATH: serve}, {_PATH: memory}, max_calls=_MAX_CALLS)
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
    """Wait until so many calls are on the fast path."""
    async with asyncio.timeout(10):
        while len(methods.fast_calls) != number:
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;a=b"])
async def test_what_memory_knows_is_answered_by_the_short_way(methods: AsgiMethods, kind: bytes) -> None:
    """With one look at the request, and nothing to tell of its end."""
    call = Call(methods, headers=[(b"content-type", kind), (b"authorization", b"known")])
    await until_fast(methods, 1)
    call.feed(framed(b"known"))
    assert await call.answer() == framed(b"from memory")
    assert len(call.asked) == 1
    assert not call.ended.is_set()


async def test_what_memory_does_not_know_goes_on_from_there(methods: AsgiMethods) -> None:
    """What was read already is not lost."""
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"other"))
    assert await call.answer() == framed(b"served: other")
    assert len(call.asked) == 1
    await call.end()


@pytest.mark.parametrize("message", [b"known", b"other"])
async def test_what_has_to_wait_goes_on_waiting_by_the_full_way(methods: AsgiMethods, message: bytes) -> None:
    """Where there is a limit to it; the request is asked for once."""
    call = Call(methods)
    await until_fast(methods, 1)
    await until_fast(methods, 0)
    assert len(call.asked) == 1
    call.feed(framed(message))
    assert await call.answer() == framed(b"served: " + message)
    await call.end()


async def test_a_message_that_comes_as_the_call_is_to_leave_is_answered(methods: AsgiMethods) -> None:
    """Whatever the loop does first."""
    call = Call(methods)
    await until_fast(methods, 1)
    for fast in methods.fast_calls:
        asyncio.get_running_loop().call_soon(fast.fall_back)
    call.feed(framed(b"known"))
    assert await call.answer() == framed(b"from memory")
    assert not call.ended.is_set()


@pytest.mark.parametrize("first", [7, len(framed(b"known"))], ids=["in two pieces", "all but its end"])
async def test_what_more_may_follow_goes_the_full_way(methods: AsgiMethods, first: int) -> None:
    """Each piece is read once."""
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"known")[:first], more=True)
    await until_fast(methods, 0)
    call.feed(framed(b"known")[first:])
    assert await call.answer() == framed(b"served: known")


@pytest.mark.parametrize("fast", [1, 0])
async def test_a_client_that_leaves_leaves_nothing(methods: AsgiMethods, fast: int) -> None:
    """Neither an answer nor a call in the place of others, on either way."""
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
    assert await call.answer() == framed(b"from memory")


async def test_a_message_over_the_limit_goes_the_full_way(methods: AsgiMethods) -> None:
    """Where it is told."""
    call = Call(methods)
    await until_fast(methods, 1)
    call.feed(framed(b"known".ljust(_MAX_BYTES + 1)))
    assert await call.answer() == b"8", "RESOURCE_EXHAUSTED"
    await call.end()


async def test_calls_that_wait_take_places(methods: AsgiMethods) -> None:
    """On either way; whoever comes then is turned away, and room is made by an answer."""
    calls = [Call(methods) for _ in range(_MAX_CALLS)]
    for fast in (_MAX_CALLS, 0):
        await until_fast(methods, fast)
        one_more = Call(methods)
        assert await one_more.answer() == b"8", "RESOURCE_EXHAUSTED"
        assert not one_more.asked
    calls[0].feed(framed(b"other"))
    await calls[0].answer()
    call = Call(methods)
    await until_fast(methods, 1)
    for each in [call, *calls[1:]]:
        each.feed(framed(b"known"))
        await each.answer()


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
async def test_what_is_unlike_most_calls_goes_the_full_way(methods: AsgiMethods, changed: Event) -> None:
    """From the beginning, whatever becomes of it there."""
    call = Call(methods, **changed)
    async with asyncio.timeout(10):
        while not (call.asked or call.sent):
            await asyncio.sleep(0)
            assert not methods.fast_calls
    if call.asked:
        call.feed(framed(b"known"))
        assert await call.answer() == framed(b"served: known")
        assert len(call.asked) == 1
    await call.end()
