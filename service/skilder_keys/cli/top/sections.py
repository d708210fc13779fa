"""What the view says: its heading, and its tables, from what is known of the sources."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.cli.table import Column
from skilder_keys.cli.top.busiest import WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skilder_keys.cli.top.busiest import Busiest, Used
    from skilder_keys.cli.top.pages import Name
    from skilder_keys.cli.top.rates import Rates, Worker
    from skilder_keys.cli.top.reading import Reading

_UNKNOWN = "-"
_WELL = "cached"
_CALLS = "skilder_keys_calls_total"
_BUCKETS = "skilder_keys_call_duration_seconds_bucket"
_DENIALS = "skilder_keys_denials_total"
_GRANTS = ("skilder_keys_grants_total", ())
_OF_CALLER = "skilder_keys_caller_duration_seconds"
_MINUTES = f"last {WINDOW.seconds // 60} minutes"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        cells: The values.
        is_bad: Whether a person should look at it.
    """

    cells: tuple[str, ...]
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the view.

    Attributes:
        columns: The columns. The last one has the names; the others have numbers and are on the right.
        rows: The rows, the most important first.
        note: What to show where there is no row.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is known of the sources."""

    metrics: Reading[Rates]
    busiest: Reading[Busiest]


def headline(sources: Sources) -> list[str]:
    """Return the numbers for the whole service, each with its name."""
    rates = sources.metrics.value
    if rates is None:
        return ["no numbers of calls yet"]
    calls = _by(rates.recent, _CALLS, "code")
    failed = sum(value for code, value in calls.items() if code != "OK")
    denied = sum(_by(rates.recent, _DENIALS, "reason").values())
    up = sum(bool(each.mode) for each in rates.workers)
    numbers = (
        (sum(calls.values()), "calls/s"),
        (failed, "failed/s"),
        (rates.recent.get(_GRANTS, 0.0), "granted/s"),
        (denied, "denied/s"),
    )
    return [
        *(f"{_rate(rates.per_second(value))} {name}" for value, name in numbers),
        f"{up} of {len(rates.workers)} workers up",
    ]


def sections(sources: Sources) -> list[Section]:
    """Return all tables."""
    rates, busiest = sources.metrics.value, sources.busiest.value
    several = busiest is not None and busiest.workspaces > 1
    return [
        _methods(rates),
        _denials(rates),
        _callers(rates),
        _workers(rates.workers if rates is not None else ()),
        _used(f"key, {_MINUTES}", busiest.keys if busiest is not None else None, several=several),
        _used(f"tool, {_MINUTES}", busiest.tools if busiest is not None else None, several=several),
    ]


def _methods(rates: Rates | None) -> Section:
    columns = (
        Column("calls/s"),
        Column("failed/s", drop=2),
        Column("p50", drop=3),
        Column("p99"),
        Column("total", drop=1),
        Column("method"),
    )
    if rates is None:
        return Section(columns, [], _UNKNOWN)
    totals, recent = _by(rates.total, _CALLS, "method"), _by(rates.recent, _CALLS, "method")
    failures = Counter[str]()
    for (name, labels), value in rates.recent.items():
        if name == _CALLS and dict(labels).get("code") != "OK":
            failures[dict(labels).get("method", "")] += value  # type: ignore[assignment]  # it adds numbers of any type
    rows = []
    for method, total in sorted(totals.items(), key=lambda each: (-recent[each[0]], -each[1], each[0])):
        if total:
            buckets = _buckets(rates.recent, method)
            cells = (
                _rate(rates.per_second(recent[method])),
                _rate(rates.per_second(failures[method])),
                _quantile(buckets, 0.5),
                _quantile(buckets, 0.99),
                f"{total:,.0f}",
                _short(method),
            )
            rows.append(Row(cells))
    return Section(columns, rows, "no calls yet")


def _denials(rates: Rates | None) -> Section:
    columns = (Column("denied/s"), Column("total"), Column("denied, by reason"))
    if rates is None:
        return Section(columns, [], _UNKNOWN)
    totals, recent = _by(rates.total, _DENIALS, "reason"), _by(rates.recent, _DENIALS, "reason")
    order = sorted(totals.items(), key=lambda each: (-recent[each[0]], -each[1], each[0]))
    rows = [
        Row((_rate(rates.per_second(recent[reason])), f"{total:,.0f}", reason.lower()))
        for reason, total in order
        if total
    ]
    return Section(columns, rows, "none denied yet")


def _callers(rates: Rates | None) -> Section:
    columns = (Column("mean"), Column("calls/s"), Column("total", drop=1), Column("slowest caller"))
    if rates is None:
        return Section(columns, [], _UNKNOWN)
    totals = _by(rates.total, f"{_OF_CALLER}_count", "caller")
    recent = _by(rates.recent, f"{_OF_CALLER}_count", "caller")
    seconds = _by(rates.recent, f"{_OF_CALLER}_sum", "caller")
    means = {each: seconds[each] / recent[each] if recent[each] else -1.0 for each in totals}
    order = sorted(totals.items(), key=lambda each: (-means[each[0]], -each[1], each[0]))
    rows = [
        Row(
            (
                _time(means[caller]) if recent[caller] else _UNKNOWN,
                _rate(rates.per_second(recent[caller])),
                f"{total:,.0f}",
                caller,
            )
        )
        for caller, total in order
        if total
    ]
    return Section(columns, rows, "no calls yet")


def _workers(workers: Iterable[Worker]) -> Section:
    columns = (
        Column("calls/s"),
        Column("cpu", drop=2),
        Column("memory", drop=3),
        Column("lease age"),
        Column("worker, mode"),
    )
    rows = [
        Row(
            (
                _rate(each.calls),
                _UNKNOWN if each.cpu is None else f"{each.cpu:.0%}",
                f"{each.memory / 2**20:,.0f} MiB" if each.memory else _UNKNOWN,
                _time(each.lease_age) if math.isfinite(each.lease_age) else "none",
                f"{each.label} {each.mode or 'down'}",
            ),
            is_bad=each.mode != _WELL,
        )
        for each in sorted(workers, key=lambda each: each.mode == _WELL)
    ]
    return Section(columns, rows, _UNKNOWN)


def _used(name: str, used: Sequence[Used] | None, *, several: bool) -> Section:
    columns = (Column("calls"), Column("denied"), Column(name))
    if used is None:
        return Section(columns, [], _UNKNOWN)
    rows = [
        Row((f"{each.calls:,}", f"{each.denied:,}", f"{each.name} ({each.workspace})" if several else each.name))
        for each in used
    ]
    return Section(columns, rows, "none used")


def _by(numbers: Mapping[Name, float], name: str, label: str) -> Counter[str]:
    """Return the sums of the samples with a name, by the values of a label."""
    found: Counter[str] = Counter()
    for (each, labels), value in numbers.items():
        if each == name:
            found[dict(labels).get(label, "")] += value  # type: ignore[assignment]  # it adds numbers of any type
    return found


def _buckets(numbers: Mapping[Name, float], method: str) -> dict[float, float]:
    """Return how many calls of a method took at most so many seconds."""
    found: dict[float, float] = {}
    for (name, labels), value in numbers.items():
        if name == _BUCKETS and (of := dict(labels)).get("method") == method:
            bound = float(of.get("le", "inf"))
            found[bound] = found.get(bound, 0.0) + value
    return found


def _quantile(buckets: Mapping[float, float], share: float) -> str:
    """Return the bound of the first bucket by which this share of the calls has ended."""
    calls = max(buckets.values(), default=0.0)
    for bound in sorted(buckets):
        if calls and buckets[bound] >= calls * share:
            return f"<{_time(bound)}" if math.isfinite(bound) else f">{_time(max(filter(math.isfinite, buckets)))}"
    return _UNKNOWN


def _rate(number: float | None) -> str:
    if number is None:
        return _UNKNOWN
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"  # noqa: PLR2004 - three digits are enough


def _time(seconds: float) -> str:
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"  # noqa: PLR2004 - two digits are enough


def _short(method: str) -> str:
    """Return the name of a method without that of its service, unless that tells them apart: `Health/Check`."""
    service, _, name = method.partition("/")
    return name if service.endswith("Service") else method
