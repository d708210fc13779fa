"""The gate every call passes: who calls, may they, what do they ask, in what time, and what became of it.

One function around each method instead of a chain of interceptors, in this order:

1. The time limit starts first, so that it covers everything, the client's sending of its request too. (A client's own
   deadline is gRPC's to keep: it cancels the call.)
2. The caller is identified, and its ability checked, before the request is read: an unknown caller could else hold a
   place, and megabytes, for as long as it takes its time.
3. The one message is read.
   How long it may be is the method's own bound, and is checked before anything looks into it.
4. It is parsed here, not by gRPC, so that bad bytes get a clear error instead of a bare INTERNAL; and its lists are
   bounded before anything touches an element. Both bounds are in `rpc.limits`, for all methods.
5. The method runs.
6. An error leaves as one of ours, which the transport tells as a status by the one table of `rpc.status`.
7. The call is counted, and one line is logged. It holds what the method noted, never the request. Only a method that is
   called all the time may leave the line out where all went well: it would cost more than the call. Lines that anybody
   can cause, of calls that failed and of tokens that were denied, are bounded by `rpc.floods`; the counts are not.

`AtOnce` is a short way past most of this, for what memory can grant; a transport may try it first.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from service.domain.access import Origin
from service.domain.errors import DeadlineExceededError, KeysError, UnavailableError
from service.domain.ids import UserId
from service.rpc import limits
from service.rpc.decoding import Decoder
from service.rpc.floods import Floods
from service.rpc.status import STATUS_CODES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message
    from structlog.typing import FilteringBoundLogger

    from service.domain.access import Ability, Caller
    from service.offload import Offload
    from service.rpc.callers import Callers
    from service.rpc.context import Context
    from service.rpc.time_limit import TimeLimit

    Method = Callable[[Any, "Call"], Awaitable[Message | bytes]]
    Serve = Callable[["Context"], Awaitable[bytes]]
    Answer = Callable[[Any, Caller], bytes | None]


@dataclass(slots=True)
class Call:
    """A call that was let in.

    Attributes:
        caller: Who calls.
        context: The call, as gRPC sees it.
        notes: What the method wants in the call's log line. Never a token.
        routine: Set by a method to say that nothing happened that a line in the log would be needed for.
        denial: Set by a method that denied something, to what makes its line one of a kind.
    """

    caller: Caller
    context: Context
    notes: dict[str, str]
    routine: bool = False
    denial: str = ""

    def origin(self, actor: str) -> Origin:
        """Answers where a change comes from; an empty actor is none."""
        return Origin(self.caller, UserId(actor) if actor else None, self.context.peer())


class AtOnce:
    """A method, as far as memory is enough for it: callers and keys that it knows, and all is well.

    It is the short way of a call that happens all the time. A transport may try it before it has the gate serve the
    call; what it does not answer is as if it had not been tried. What it answers is counted, and not logged. The wait
    for the message is the transport's to bound.

    Attributes:
        max_bytes: The longest message that `answer` takes.
    """

    def __init__(
        self,
        callers: Callers,
        calls: defaultdict[tuple[str, str], int],
        descriptor: MethodDescriptor,
        ability: Ability,
        answer: Answer,
        max_bytes: int,
    ) -> None:
        self.max_bytes = max_bytes
        self._callers = callers
        self._calls = calls
        self._key = (_name(descriptor), "OK")
        self._parse = message_factory.GetMessageClass(descriptor.input_type).FromString
        self._ability = ability
        self._answer = answer

    def caller(self, credentials: str) -> Caller | None:
        """Answers who sends such a metadata `authorization`, where that is known at once and may."""
        caller = self._callers.remembered(credentials)
        return caller if caller is not None and caller.may(self._ability) else None

    def answer(self, message: bytes, caller: Caller) -> bytes | None:
        """Answers the message of a call, or None."""
        try:
            reply = self._answer(self._parse(message), caller)
        except Exception:  # noqa: BLE001 - whatever it is, the gate meets it too, and tells
            return None
        if reply is not None:
            self._calls[self._key] += 1
        return reply


class Gate:
    """Wraps the methods of servicers for any transport.

    Attributes:
        calls: How many calls of each method ended with each code.
        floods: What bounds its log.
    """

    def __init__(
        self,
        callers: Callers,
        log: FilteringBoundLogger,
        time_limit: TimeLimit,
        offload: Offload,
        max_message_bytes: int = 2**28,
    ) -> None:
        """Take what bounds the requests of every method, besides each method's own bound."""
        self.floods = Floods(log)
        self._offload = offload
        self._max_message_bytes = max_message_bytes
        self._callers = callers
        self._log = log
        self._time_limit = time_limit
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)

    def methods(self, descriptor: ServiceDescriptor, ability: Ability, servicer: object) -> dict[str, Serve]:
        """Answers the methods of a service by their paths: each needs `ability`, answers bytes, or raises KeysError."""
        return {
            _path(method): self._wrap(method, ability, getattr(servicer, method.name)) for method in descriptor.methods
        }

    def at_once(
        self, descriptor: ServiceDescriptor, ability: Ability, answers: Mapping[str, Answer]
    ) -> dict[str, AtOnce]:
        """Answers those methods of a service, by their paths, that memory may be enough for."""
        methods = descriptor.methods_by_name
        return {
            _path(methods[name]): AtOnce(
                self._callers, self.calls, methods[name], ability, answer, self._max_bytes(methods[name])
            )
            for name, answer in answers.items()
        }

    def _max_bytes(self, descriptor: MethodDescriptor) -> int:
        return min(limits.max_bytes(descriptor), self._max_message_bytes)

    def _wrap(self, descriptor: MethodDescriptor, ability: Ability, method: Method) -> Serve:
        decoder = Decoder(message_factory.GetMessageClass(descriptor.input_type))
        max_bytes = self._max_bytes(descriptor)
        name = _name(descriptor)

        async def serve(context: Context) -> bytes:
            started = perf_counter()
            facts: dict[str, str] = {}
            routine, denial = False, ""
            code = "CANCELLED"  # unless one of the ways below is taken to its end
            try:
                with self._time_limit:
                    caller = self._callers.remembered(context.credentials()) or await self._callers.identify(context)
                    facts["caller"] = caller.name
                    caller.require(ability)
                    body = await context.read(max_bytes)
                    if decoder.is_long(body):
                        request = await self._offload.run(decoder.decode, body)
                    else:
                        request = decoder.decode(body)
                    call = Call(caller, context, facts)
                    reply = await method(request, call)
                code, routine, denial = "OK", call.routine, call.denial
                return reply if isinstance(reply, bytes) else reply.SerializeToString()
            except Exception as error:  # noqa: BLE001 - whatever it is, it leaves as a status
                failure = self._translated(error, name)
                facts["reason"] = failure.reason
                code = STATUS_CODES[type(failure)].name
                try:
                    raise failure from failure.__cause__  # as it was: other calls may be told of the same one
                finally:
                    del failure  # its traceback holds this frame: each failed call would be a reference cycle
            finally:
                self.calls[name, code] += 1
                if not routine:
                    milliseconds = round((perf_counter() - started) * 1000, 2)
                    self._log_call(name, code, milliseconds, context.peer(), facts, denial or facts.get("reason", ""))

        return serve

    def _log_call(
        self, method: str, code: str, milliseconds: float, peer: str, facts: Mapping[str, str], kind: str
    ) -> None:
        if (code == "OK" and not kind) or self.floods.admits(
            peer, method=method, code=code, kind=kind, caller=facts.get("caller", "")
        ):
            self._log.info("call", method=method, code=code, ms=milliseconds, peer=peer, **facts)

    def _translated(self, error: Exception, method: str) -> KeysError:
        if (
            isinstance(error, UnavailableError)
            and error.__cause__ is not None
            and self.floods.admits("", method=method, kind="database")
        ):
            self._log.warning("database", method=method, error=repr(error.__cause__))
        if isinstance(error, KeysError):
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceededError()
        if self.floods.admits("", method=method, kind=f"unexpected {type(error).__name__}"):
            self._log.error("unexpected error", method=method, exc_info=error)
        return KeysError()


def _path(descriptor: MethodDescriptor) -> str:
    return f"/{descriptor.containing_service.full_name}/{descriptor.name}"


def _name(descriptor: MethodDescriptor) -> str:
    return f"{descriptor.containing_service.name}/{descriptor.name}"
