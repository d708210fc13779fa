"""Records of the decision log as log records of OpenTelemetry, on a collector that checks them by OTLP's schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from skilder_keys.worker import decision_otlp
from skilder_keys.worker.decision_otlp import OtlpCollector
from skilder_keys.worker.decision_writer import DecisionWriter
from tests.support.collector import collecting

if TYPE_CHECKING:
    import pytest

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RECORD: dict[str, Any] = {
    "at": "2026-11-26T18:43:12.874Z",
    "verdict": "denied",
    "reason": "REVOKED",
    "key_id": "k",
    "epoch": 17,
    "trace_id": TRACE,
}


def test_a_record_is_a_log_record_in_its_trace() -> None:
    """With its time, and with all it has as attributes."""
    with collecting() as collector:
        writer = DecisionWriter(OtlpCollector(collector.logs_endpoint), worker=3)
        writer.put(RECORD)
        writer.put({"at": RECORD["at"], "verdict": "denied", "repeated": 5, "peers": {"ipv4:192.0.2.1": 5}})
        writer.close()
        assert (writer.written, writer.dropped) == (2, 0)
    (one, its), (_, of_flood) = collector.log_records
    assert datetime.fromtimestamp(one.time_unix_nano / 1e9, UTC).isoformat() == "2026-11-26T18:43:12.874000+00:00"
    assert (one.trace_id.hex(), one.body.string_value) == (TRACE, "denied REVOKED")
    assert its == {"verdict": "denied", "reason": "REVOKED", "key_id": "k", "epoch": 17, "worker": 3}
    assert of_flood == {"verdict": "denied", "repeated": 5, "peers": '{"ipv4:192.0.2.1": 5}', "worker": 3}


def test_a_collector_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while; then the records are lost, and counted as such. So are those that it refuses."""
    monkeypatch.setattr(decision_otlp, "_RETRY_SECONDS", 0.0)
    texts = [json.dumps(RECORD)] * 4
    with collecting() as collector:
        output = OtlpCollector(collector.logs_endpoint)
        collector.responses = [(503, b""), (429, b"")]
        assert output.write(texts) == len(collector.log_records) == 4
        collector.responses = [(503, b"")] * 3
        assert output.write(texts) == 0
        collector.responses = [(200, b'{"partialSuccess": {"rejectedLogRecords": "3"}}')]
        assert output.write(texts) == 1
        collector.responses = [(200, b"not JSON")]
        assert output.write(texts) == 4
    assert output.write(texts) == 0, "it is away"
