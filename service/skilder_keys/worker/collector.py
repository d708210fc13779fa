"""The metrics of a worker, for Prometheus: its fence, its caches, its database connections and its calls."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, SummaryMetricFamily

from skilder_keys.domain.denial import DenialReason
from skilder_keys.rpc.call_metrics import BOUNDS

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from skilder_keys.app.activity.counter import ActivityCounter
    from skilder_keys.app.activity.fold import ActivityFold
    from skilder_keys.app.activity.writer import ActivityWriter
    from skilder_keys.app.authorization.authorizer import Authorizer
    from skilder_keys.app.authorization.memory import Memory
    from skilder_keys.app.authorization.turns import Gates
    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.reader import Reader
    from skilder_keys.app.key_purge import KeyPurge
    from skilder_keys.app.unused_keys import UnusedKeys
    from skilder_keys.rpc.call_metrics import CallMetrics
    from skilder_keys.rpc.pipeline import Pipeline
    from skilder_keys.storage.database import Database
    from skilder_keys.transports.frontend import Frontend
    from skilder_keys.worker.decision_writer import DecisionWriter
    from skilder_keys.worker.readings import Readings

_WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LE = [*map(str, BOUNDS), "+Inf"]


def new_registry() -> CollectorRegistry:
    """Return a registry for this process, with the metrics that every Python process has."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def writer_waits(registry: CollectorRegistry) -> Histogram:
    """Return the histogram of the seconds that changes waited for the readers."""
    return Histogram(
        "skilder_keys_writer_wait_seconds",
        "Time that a change waited after its commit until every process had applied it.",
        buckets=_WAIT_BUCKETS,
        registry=registry,
    )


def read_all(
    readings: Readings,
    reader: Reader,
    lease: Lease,
    memory: Memory,
    gates: Gates,
    database: Database,
    authorizer: Authorizer,
    verifier: Verifier,
    unused: UnusedKeys,
    pipeline: Pipeline,
    frontend: Frontend,
) -> None:
    """Add the metrics of all parts of a worker."""
    _read_fence(readings, reader, lease)
    _read_memory(readings, memory, gates)
    _read_database(readings, database)
    _read_tokens(readings, authorizer, verifier, unused)
    _read_calls(readings, pipeline.calls, frontend.name)


def read_activity(readings: Readings, counter: ActivityCounter, writer: ActivityWriter, fold: ActivityFold) -> None:
    """Add the metrics of activity."""
    readings.gauge("activity_cells", "Counts in memory that are not in the journal.", lambda: counter.cells)
    readings.gauge("activity_facts", "Different facts that were counted in this minute.", lambda: counter.facts)
    readings.gauge("activity_lag_seconds", "Age of the oldest count that is not in the journal.", lambda: writer.lag)
    readings.counter(
        "activity_collapsed",
        "Calls counted without their tool or hint.",
        lambda: counter.collapsed,
    )
    readings.counters(
        "activity_dropped",
        "Calls that are in no fact, by reason.",
        lambda: {"memory": counter.dropped, "late": fold.dropped},
        "reason",
    )
    readings.gauge("activity_journal_rows", "Rows in the journal, when this worker looked.", lambda: fold.backlog.rows)
    readings.gauge(
        "activity_journal_age_seconds",
        "Age of the oldest row in the journal, when this worker looked.",
        lambda: fold.backlog.age,
    )
    readings.counter("activity_folded_calls", "Calls that this worker has folded into facts.", lambda: fold.calls)
    readings.counters("activity_fold_runs", "Looks at the journal, by outcome.", lambda: fold.runs, "outcome")


def read_purge(readings: Readings, purge: KeyPurge) -> None:
    """Add the metrics of the purge of keys."""
    readings.counter("purged_keys", "Keys purged because they ended long ago.", lambda: purge.purged)
    readings.counters("purge_runs", "Searches for keys to purge, by outcome.", lambda: purge.runs, "outcome")


def read_decisions(readings: Readings, writer: DecisionWriter) -> None:
    """Add the metrics of the decision log."""
    readings.gauge("decision_log_waiting", "Records of decisions that wait to be written.", lambda: writer.waiting)
    readings.counters(
        "decision_log_records",
        "Records of decisions, by outcome.",
        lambda: {"written": writer.written, "dropped": writer.dropped},
        "outcome",
    )


def _read_fence(readings: Readings, reader: Reader, lease: Lease) -> None:
    """Add the metrics of the fence."""
    modes = ("cached", "direct", "unavailable")
    readings.gauges(
        "mode",
        "1 for the current mode of Authorize, else 0.",
        lambda: {each: float(each == reader.mode) for each in modes},
        "mode",
    )
    readings.gauge("lease_age_seconds", "Time since the lease was requested; +Inf without one.", lease.age)
    readings.gauge("epoch", "The last change that memory has applied.", lambda: lease.epoch)
    readings.gauge("epoch_lag", "Changes that are known but not applied yet.", lambda: reader.known - lease.epoch)


def _read_memory(readings: Readings, memory: Memory, gates: Gates) -> None:
    """Add the metrics of what is in memory, and of what waits to be looked up."""
    readings.gauge("cached_keys", "Keys in memory.", lambda: memory.key_count)
    readings.gauge("cached_workspaces", "Workspaces in memory.", lambda: memory.workspace_count)
    readings.gauge(
        "cached_workspaces_bytes", "Estimate of the memory that workspaces take.", lambda: memory.workspace_bytes
    )
    readings.counter(
        "workspaces_evicted",
        "Workspaces dropped from memory to make room for others.",
        lambda: memory.evicted_workspaces,
    )
    readings.counter("cache_hits", "Tokens decided from memory.", lambda: memory.hits)
    readings.counter("cache_misses", "Tokens that were not in memory.", lambda: memory.misses)
    readings.gauge("first_sights_waiting", "Tokens not in memory that wait to be looked up.", lambda: gates.waiting)
    readings.counter("first_sights_refused", "Tokens not in memory that were refused as BUSY.", lambda: gates.refused)


def _read_database(readings: Readings, database: Database) -> None:
    """Add the metrics of the pool of connections."""
    readings.gauges(
        "pool_connections", "Database connections of the pool, by state.", lambda: database.pool_use, "state"
    )
    readings.gauge("pool_waiting", "Calls that wait for a database connection.", lambda: database.waiting)
    readings.counter("pool_refused", "Calls refused as BUSY without a free connection.", lambda: database.refused)


def _read_tokens(readings: Readings, authorizer: Authorizer, verifier: Verifier, unused: UnusedKeys) -> None:
    """Add the metrics of tokens and keys."""
    readings.counter("grants", "Tokens granted.", lambda: authorizer.granted)
    readings.gauge("argon2_waiting", "Tokens that wait for argon2 to verify them.", lambda: verifier.waiting)
    readings.counters("argon2", "Tokens that argon2 has verified, by outcome.", lambda: verifier.outcomes, "outcome")
    readings.counters(
        "denials",
        "Tokens denied, by reason.",
        lambda: {each.name: authorizer.denials[each] for each in DenialReason},
        "reason",
    )
    readings.counter("unused_keys_revoked", "Keys revoked because nobody used them.", lambda: unused.revoked)
    readings.counters("unused_keys_runs", "Searches for unused keys, by outcome.", lambda: unused.runs, "outcome")


def _read_calls(readings: Readings, calls: CallMetrics, transport: str) -> None:
    """Add the metrics of calls."""

    def durations() -> Metric:
        found = HistogramMetricFamily(
            "skilder_keys_call_duration_seconds",
            "Duration of calls, by method, transport and status code; of a stream, until its end.",
            labels=["method", "transport", "code"],
        )
        for method, code, numbers, seconds in calls:
            buckets = list(zip(_LE, accumulate(numbers), strict=True))
            found.add_metric([method, transport, code], buckets, seconds)
        return found

    def counts() -> Metric:
        found = CounterMetricFamily(
            "skilder_keys_calls", "Calls, by method and status code.", labels=["method", "code"]
        )
        for method, code, numbers, _ in calls:
            found.add_metric([method, code], sum(numbers))
        return found

    def of_callers() -> Metric:
        found = SummaryMetricFamily(
            "skilder_keys_caller_duration_seconds", "Duration of calls, by caller.", labels=["caller"]
        )
        for caller, (count, seconds) in calls.by_caller().items():
            found.add_metric([caller], count, seconds)
        return found

    readings.family(durations)
    readings.family(counts)
    readings.family(of_callers)
    readings.counter("calls_refused", "Calls refused because too many were running.", lambda: calls.refused)
