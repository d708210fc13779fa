"""Traces by OpenTelemetry: a span for each call, in the trace of the caller, sent by OTLP over HTTP.

The libraries are the extra [otel]. They are imported only where traces are sent.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.call_metrics import label_of
from skilder_keys.rpc.status import STATUS_CODES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.rpc.context import Context
    from skilder_keys.storage.database import Connection, Database

T = TypeVar("T")

_SECONDS = 3.0
"""The most seconds for sending spans, also at the end."""

_CALLER = "skilder.caller"
_CONTEXT = ("traceparent", "tracestate")
# By OpenTelemetry's conventions for gRPC servers, these are faults of the server; others are the caller's affair.
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class ExtraMissingError(Exception):
    """The option trace_endpoint needs the extra [otel]: install skilder-keys[otel], or leave the option out."""


class OpenTelemetry:
    """Makes spans, and sends them in the background. Beyond 2,048 that wait, spans are dropped."""

    def __init__(self, endpoint: str, ratio: float, worker: int) -> None:
        """Start a thread that sends spans.

        Args:
            endpoint: The URL of the collector, e.g. `http://127.0.0.1:4318/v1/traces`.
            ratio: Which part of the traces that begin here is sampled. A caller that sends a trace decides by itself.
            worker: The number of this worker.

        Raises:
            ExtraMissingError: The libraries are not installed.
        """
        try:
            from opentelemetry import trace  # noqa: PLC0415 - optional, and slow to load
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ExtraMissingError(ExtraMissingError.__doc__) from None
        resource = Resource.create({"service.name": "skilder-keys", "skilder.worker": worker})
        self._provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio), resource=resource)
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_at_most_a_warning)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_SECONDS)))
        self._tracer = self._provider.get_tracer("skilder_keys")
        self._extract = TraceContextTextMapPropagator().extract
        self._trace = trace

    def traced(self, path: str, serve: Callable[[Any], Awaitable[Any]]) -> Callable[[Context], Awaitable[Any]]:
        """Return a function that serves a call within a span, as `Tracing.traced` says."""
        tracer, extract, trace = self._tracer, self._extract, self._trace
        service, _, method = path.removeprefix("/").partition("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": f"{service}/{method}"}

        async def serve_traced(context: Context) -> Any:  # noqa: ANN401 - what `serve` returns
            carrier = {name: value for name in _CONTEXT if (value := context.metadata(name)) is not None}
            with tracer.start_as_current_span(
                label_of(path),
                context=extract(carrier),
                kind=trace.SpanKind.SERVER,
                attributes=attributes,
                record_exception=False,  # its text may quote what the caller sent
                set_status_on_exception=False,
            ) as span:
                code = "CANCELLED"
                try:
                    response = await serve(context)
                    code = "OK"
                except KeysError as error:
                    code = STATUS_CODES[type(error)].name
                    span.set_attribute("error.type", error.reason)
                    raise
                else:
                    return response
                finally:
                    span.set_attribute("rpc.response.status_code", code)
                    if code in _FAULTS:
                        span.set_status(trace.Status(trace.StatusCode.ERROR))

        return serve_traced

    def note_caller(self, name: str) -> None:
        """Note the caller, as `Tracing.note_caller` says."""
        self._trace.get_current_span().set_attribute(_CALLER, name)

    def trace_parts(self, database: Database, verifier: Verifier, writer: Writer) -> None:
        """Make spans of the parts of a call that take long: children of the call's.

        The methods of these objects are replaced, so that a worker without traces has nothing on their way.
        """
        replaced: tuple[tuple[object, str, object], ...] = (
            (database, "connection", self._connection(database.connection)),
            (verifier, "hash", self._part("argon2", verifier.hash)),
            (verifier, "verify", self._reported("argon2", verifier.verify)),
            (writer, "settle", self._part("fence wait", writer.settle)),
        )
        for owner, name, method in replaced:
            setattr(owner, name, method)

    def _span(self, name: str) -> AbstractContextManager[object]:
        """Return a span in that of the present call, or nothing: what runs in the background belongs to no call."""
        if not self._trace.get_current_span().is_recording():
            return nullcontext()
        return self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False)

    def _connection(self, lend: Callable[[], AbstractAsyncContextManager[Connection]]) -> object:
        @asynccontextmanager
        async def lent() -> AsyncIterator[Connection]:
            with self._span("database"):
                async with lend() as connection:
                    yield connection

        return lent

    def _part(self, name: str, run: Callable[..., Awaitable[T]]) -> object:
        async def ran(*arguments: object) -> T:
            with self._span(name):
                return await run(*arguments)

        return ran

    def _reported(self, name: str, begin: Callable[..., None]) -> object:
        def begun(token: object, digest: object, secret_hash: object, report: Callable[[object], None]) -> None:
            span = self._tracer.start_span(name) if self._trace.get_current_span().is_recording() else None

            def ended(result: object) -> None:
                if span is not None:
                    span.end()
                report(result)

            begin(token, digest, secret_hash, ended)

        return begun

    def close(self) -> None:
        """Send what waits. This takes up to some seconds if the collector does not respond."""
        self._provider.shutdown()


def _at_most_a_warning(record: logging.LogRecord) -> bool:
    """Let a collector that is away be a warning: it is no fault of the service, and no call notices it."""
    record.levelno = min(record.levelno, logging.WARNING)
    record.levelname = logging.getLevelName(record.levelno)
    return True
