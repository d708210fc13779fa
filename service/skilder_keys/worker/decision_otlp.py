"""Send the records of the decision log to a collector of OpenTelemetry, as log records by OTLP over HTTP, in JSON.

The form is that of the OpenTelemetry Protocol (https://opentelemetry.io/docs/specs/otlp/) and needs no library.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 3.0
_INFO = 9  # SEVERITY_NUMBER_INFO
# Many records at once are waiting after an outage of the collector. It gets them slowly enough to take them.
_RETRY_SECONDS = 1.0
_TRIES = 3


class OtlpCollector:
    """A collector that gets a log record for each record. One that is away is tried again for some seconds."""

    def __init__(self, endpoint: str) -> None:
        """Take the URL of the collector, e.g. `http://127.0.0.1:4318/v1/logs`."""
        self._endpoint = endpoint

    def write(self, records: Sequence[str]) -> int:
        """Send records, as `Output.write` does."""
        body = json.dumps(_request([json.loads(each) for each in records])).encode()
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_RETRY_SECONDS)
            request = urllib.request.Request(  # noqa: S310 - the option takes http and https only
                self._endpoint, body, {"content-type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310 - as above
                    return len(records) - _rejected(response.read())
            except (OSError, urllib.error.URLError):
                continue
        return 0

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""


def _rejected(body: bytes) -> int:
    """Return how many records the collector has refused, by its response."""
    try:
        return int(json.loads(body).get("partialSuccess", {}).get("rejectedLogRecords", 0))
    except (ValueError, AttributeError):
        return 0


def _request(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    resource = {"attributes": [_attribute("service.name", "skilder-keys")]}
    scope = {"scope": {"name": "skilder_keys.decisions"}, "logRecords": [_log_record(each) for each in records]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}


def _log_record(record: dict[str, Any]) -> dict[str, Any]:
    at = datetime.fromisoformat(record["at"])
    found: dict[str, Any] = {
        "timeUnixNano": str(round(at.timestamp() * 1000) * 1_000_000),
        "severityNumber": _INFO,
        "body": {"stringValue": " ".join(str(record[name]) for name in ("verdict", "reason") if name in record)},
        "attributes": [_attribute(name, value) for name, value in record.items() if name not in {"at", "trace_id"}],
    }
    if "trace_id" in record:
        found["traceId"] = record["trace_id"]
    return found


def _attribute(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"stringValue": value if isinstance(value, str) else json.dumps(value)}}
