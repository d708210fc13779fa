"""An OpenTelemetry collector on loopback, which keeps the spans and log records that it gets by OTLP over HTTP."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Collector:
    """A collector.

    Attributes:
        endpoint: The URL to send traces to.
        logs_endpoint: The URL to send log records to.
        responses: The statuses and bodies of its next responses; after them, 200 and an empty object.
        spans: The spans that it has got.
        log_records: The log records that it has got, each with its attributes.
        resources: The attributes of the resources that have sent them.
    """

    def __init__(self, address: str) -> None:
        self.endpoint = f"http://{address}/v1/traces"
        self.logs_endpoint = f"http://{address}/v1/logs"
        self.responses: list[tuple[int, bytes]] = []
        self.log_records: list[tuple[Any, dict[str, Any]]] = []
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def take_logs(self, body: bytes) -> None:
        """Keep the log records of a request in JSON, in which OTLP writes the id of a trace in hexadecimal."""
        document = json.loads(body)
        for resource in document["resourceLogs"]:
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    if "traceId" in record:
                        record["traceId"] = base64.b64encode(bytes.fromhex(record["traceId"])).decode()
        for logs in ParseDict(document, ExportLogsServiceRequest()).resource_logs:
            for found in logs.scope_logs:
                self.log_records += [(each, attributes(each)) for each in found.log_records]


def attributes(holder: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, response = collector.responses.pop(0) if collector.responses else (200, b"{}")
            if status == HTTPStatus.OK and self.path == "/v1/logs":
                collector.take_logs(body)
            elif status == HTTPStatus.OK:
                collector.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                response = b""
            self.send_response(status)
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
