"""The pipeline that every call passes.

It is one function around each method, instead of a chain of interceptors. Its steps, in this order:

1. The time limit starts first, so that it covers everything, including the wait for the client's request. (gRPC itself
   enforces the client's own deadline: it cancels the call.)
2. `Admission` authenticates the caller and checks its ability before the request is read. Otherwise an unknown caller
   could occupy a place, and megabytes, for as long as it likes.
3. The single message is read. The method's bound on its length is checked before anything parses it.
4. The pipeline parses the message, not gRPC, so that bad bytes cause a clear error instead of a bare INTERNAL. The
   lengths of lists are checked before any element is touched. Both bounds are in `rpc.limits`, for all methods. A
   field or an enum value that this version does not know is refused: see `rpc.unknown`. Only methods of gateways,
   whose contracts are not ours, ignore it.
5. A caller that acts only for people must name an actor, if the request has that field. A caller that is limited to
   workspaces must name one of them, if the request has that field. What a key or a token belongs to is not known yet:
   the use cases check that.
6. The method runs. A method with a stream returns its messages, and they are sent one by one. Where they come over
   time, as events do, they are sent outside of the time limit; then each has a limit of its own, so that a client that
   does not read does not keep its place.
7. Every error becomes a KeysError. The transport sends it as a status, by the table in `rpc.status`.
8. The call is counted, and one line is logged. The line has the notes of the method, never the request. A method that
   is called very often may leave the line out if all went well, because the line would cost more than the call.
   `log_limiter` limits the lines that anybody can cause, of failed calls and denied tokens. Counts are not limited.
   The line of a change has the head of the audit trail after it, so that a trail that was rewritten shows.

`rpc.fast_path` skips most of these steps for calls that can be granted from memory; a transport may try it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import message_factory

from skilder_keys.domain.access import Origin
from skilder_keys.domain.errors import BusyError, KeysError, UnavailableError
from skilder_keys.domain.ids import UserId
from skilder_keys.rpc import limits
from skilder_keys.rpc.admission import Admission
from skilder_keys.rpc.call_metrics import CallMetrics, caller_label
from skilder_keys.rpc.decoding import Decoder, ForeignDecoder
from skilder_keys.rpc.errors import DeadlineExceededError
from skilder_keys.rpc.fast_path import FastPath
from skilder_keys.rpc.log_limiter import limiter_of
from skilder_keys.rpc.options import ability_of, is_ours, named_workspace, takes_actor
from skilder_keys.rpc.status import STATUS_CODES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.auth.callers import Callers
    from skilder_keys.domain.access import Caller
    from skilder_keys.offload import Offload
    from skilder_keys.rpc.context import Context, StreamContext
    from skilder_keys.rpc.fast_path import Respond
    from skilder_keys.rpc.time_limit import TimeLimit
    from skilder_keys.rpc.tracing import Tracing

    Method = Callable[[Any, "Call"], Awaitable[Message | bytes]]
    StreamMethod = Callable[[Any, "Call"], Awaitable[Iterable[bytes] | AsyncGenerator[bytes, None]]]
    Serve = Callable[["Context"], Awaitable[bytes]]
    ServeStream = Callable[["StreamContext"], Awaitable[object]]

_WRITE_SECONDS = 10.0
"""How long one message of a stream that lasts may take."""
_SLOW = "The client read too slowly: read faster, and call again, with the last cursor."


@dataclass(slots=True)
class Call:
    """A call that was admitted.

    Attributes:
        caller: The caller.
        context: The call, as its transport sees it.
        body: The bytes of the request.
        notes: What the method adds to the call's log line. Never a token.
        routine: A method sets it if the call needs no log line.
        denial: A method that denied a token sets it to the reason, which is part of the kind of the log line.
        audit_heads: The heads of the audit trail that its commits have made, which are logged.
        lasting: The messages of a stream that come over time; None for other calls.
        lasted: For how many seconds they were sent.
    """

    caller: Caller
    context: Context
    body: bytes
    notes: dict[str, str]
    routine: bool = False
    denial: str = ""
    audit_heads: list[str] = field(default_factory=list)
    lasting: AsyncGenerator[bytes, None] | None = None
    lasted: float = 0.0

    def origin(self, actor: str) -> Origin:
        """Return the origin of a change; an empty actor means no actor."""
        return Origin(self.caller, UserId(actor) if actor else None, self.context.peer(), self.audit_heads)


class Pipeline:
    """Wraps the methods of servicers for any transport.

    Attributes:
        calls: The metrics of its calls.
        log_limiter: The limit for its log lines.
    """

    def __init__(
        self,
        callers: Callers,
        log: FilteringBoundLogger,
        time_limit: TimeLimit,
        offload: Offload,
        max_message_bytes: int = 2**28,
        tracing: Tracing | None = None,
    ) -> None:
        """Make the pipeline.

        Args:
            callers: The callers of the service.
            log: The log.
            time_limit: The limit for each call.
            offload: Where long requests are parsed.
            max_message_bytes: The longest request of any method; each method also has its own bound.
            tracing: Makes a span of each call; None for no traces.
        """
        self.log_limiter = limiter_of(log)
        self.calls = CallMetrics()
        self._offload = offload
        self._max_message_bytes = max_message_bytes
        self._callers = callers
        self._log = log
        self._time_limit = time_limit
        self._tracing = tracing

    def methods(self, descriptor: ServiceDescriptor, servicer: object) -> dict[str, Serve]:
        """Return the methods of a service by their paths. Each returns the response's bytes, or raises KeysError."""
        return {
            _path(method): self._wrap(method, getattr(servicer, method.name))
            for method in descriptor.methods
            if not method.server_streaming
        }

    def streams(self, descriptor: ServiceDescriptor, servicer: object) -> dict[str, ServeStream]:
        """Return the methods of a service that respond with a stream. Each sends its messages, or raises KeysError."""
        return {
            _path(method): self._wrap(method, _streamed(getattr(servicer, method.name)))
            for method in descriptor.methods
            if method.server_streaming
        }

    def fast_paths(self, descriptor: ServiceDescriptor, responds: Mapping[str, Respond]) -> dict[str, FastPath]:
        """Return the fast paths of a service's methods, by the methods' paths; none if calls are traced.

        Raises:
            ValueError: A method takes an actor, which the fast path does not check.
        """
        methods = [descriptor.methods_by_name[name] for name in responds]
        if any(map(takes_actor, methods)):
            raise ValueError("a method that takes an actor has no fast path")
        if self._tracing is not None:
            return {}
        return {
            _path(each): FastPath(self._admission(each), _decoder(each), responds[each.name], self._max_bytes(each))
            for each in methods
        }

    def _max_bytes(self, descriptor: MethodDescriptor) -> int:
        return min(limits.max_bytes(descriptor), self._max_message_bytes)

    def _admission(self, descriptor: MethodDescriptor) -> Admission:
        service = descriptor.containing_service.name
        return Admission(f"{service}/{descriptor.name}", ability_of(descriptor), self._callers, self.calls)

    def _wrap(self, descriptor: MethodDescriptor, method: Method) -> Serve:
        admission = self._admission(descriptor)
        decoder = _decoder(descriptor)
        max_bytes = self._max_bytes(descriptor)
        with_actor, workspace_of, tracing = takes_actor(descriptor), named_workspace(descriptor), self._tracing
        admission.latency("OK")  # so that the method is among the metrics before its first call

        async def serve(context: Context) -> bytes:
            started = perf_counter()
            notes: dict[str, str] = {}
            routine, denial, label = False, "", ""
            call: Call | None = None
            heads: list[str] = []
            code = "CANCELLED"  # unless the call ends in one of the ways below
            try:
                with self._time_limit:
                    caller = await admission.admit(context, notes)
                    label = caller_label(caller)
                    if tracing is not None:
                        tracing.note_caller(caller.name)
                    body = await context.read(max_bytes)
                    if decoder.is_long(body):
                        request = await self._offload.run(decoder.decode, body)
                    else:
                        request = decoder.decode(body)
                    if with_actor:
                        caller.require_actor(request.actor)
                    if workspace_of is not None:
                        caller.limits.require_workspace(workspace_of(request))
                    call = Call(caller, context, cast("bytes", body), notes, audit_heads=heads)
                    reply = await method(request, call)
                if call.lasting is not None:
                    await _send(call.lasting, call)
                code, routine, denial = "OK", call.routine, call.denial
                return reply if isinstance(reply, bytes) else reply.SerializeToString()
            except Exception as error:  # noqa: BLE001 - every error is sent as a status
                failure = self._to_keys_error(error, admission.method)
                notes["reason"] = failure.reason
                code = STATUS_CODES[type(failure)].name
                try:
                    raise failure from failure.__cause__  # keeps the cause: other calls may raise the same error
                finally:
                    del failure  # its traceback refers to this frame: each failed call would be a reference cycle
            finally:
                # How long a stream lasts says nothing about the service.
                admission.latency(code, label).note_since(started + (call.lasted if call else 0.0))
                if heads:  # also of a call that failed after its commit
                    notes["audit_head"] = heads[-1]
                if not routine:
                    milliseconds = round((perf_counter() - started) * 1000, 2)
                    kind = denial or notes.get("reason", "")
                    self._log_call(admission.method, code, milliseconds, context.peer(), notes, kind)

        return serve if tracing is None else tracing.traced(_path(descriptor), serve)

    def _log_call(
        self, method: str, code: str, milliseconds: float, peer: str, notes: Mapping[str, str], kind: str
    ) -> None:
        if (
            (code == "OK" and not kind)
            or "audit_head" in notes
            or self.log_limiter.admits(peer, method=method, code=code, kind=kind, caller=notes.get("caller", ""))
        ):
            self._log.info("call", method=method, code=code, ms=milliseconds, peer=peer, **notes)

    def _to_keys_error(self, error: Exception, method: str) -> KeysError:
        if (
            isinstance(error, UnavailableError)
            and error.__cause__ is not None
            and self.log_limiter.admits("", method=method, kind="database")
        ):
            self._log.warning("database", method=method, error=repr(error.__cause__))
        if isinstance(error, KeysError):
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceededError()
        if self.log_limiter.admits("", method=method, kind=f"unexpected {type(error).__name__}"):
            self._log.error("unexpected error", method=method, exc_info=error)
        return KeysError()


def _streamed(method: StreamMethod) -> Method:
    async def respond(request: object, call: Call) -> bytes:
        # A transport serves the methods with a stream by such contexts only.
        context = cast("StreamContext", call.context)
        messages = await method(request, call)
        if isinstance(messages, AsyncGenerator):
            call.lasting = messages
            return b""
        for message in messages:
            await context.write(message)
        return b""

    return respond


async def _send(messages: AsyncGenerator[bytes, None], call: Call) -> None:
    context, begun = cast("StreamContext", call.context), perf_counter()
    try:
        async with aclosing(messages):
            async for message in messages:
                try:
                    async with asyncio.timeout(_WRITE_SECONDS):
                        await context.write(message)
                except TimeoutError:
                    raise BusyError(_SLOW) from None
    finally:
        call.lasted = perf_counter() - begun


def _path(descriptor: MethodDescriptor) -> str:
    return f"/{descriptor.containing_service.full_name}/{descriptor.name}"


def _decoder(descriptor: MethodDescriptor) -> Decoder[Any]:
    request_type = message_factory.GetMessageClass(descriptor.input_type)
    return Decoder(request_type) if is_ours(descriptor) else ForeignDecoder(request_type)
