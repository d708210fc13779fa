"""`top`: how metrics pages are compared, and how the view is arranged, whatever its size and its names."""

from __future__ import annotations

import io
import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from skilder_keys.cli.text import UNSAFE
from skilder_keys.cli.top.busiest import Busiest, Used
from skilder_keys.cli.top.layout import arranged
from skilder_keys.cli.top.pages import Name, Page, parsed, url_of
from skilder_keys.cli.top.rates import Meter, Rates, Worker
from skilder_keys.cli.top.reading import Reader, Reading, SourceError
from skilder_keys.cli.top.sections import Sources, headline, sections
from skilder_keys.cli.top.view import View, as_text

_CALLS = ("skilder_keys_calls_total", (("code", "OK"), ("method", "KeyService/GetKey")))
_START = ("process_start_time_seconds", ())
_UP = ("skilder_keys_worker_up", ())
_NAMES = (
    "東京支店のボット",
    "بوت الدعم",
    "\U0001f469\u200d\U0001f4bb dev bot",
    "Cafe\u0301 " * 9,
    "x" * 300,
    "a\x1b[2Jb\rc\nd\u202ee\x9b1m",
)


def page(at: float, **workers: tuple[float, float] | None) -> Page:
    """Return a page with the start and the calls of each worker; None for a worker that does not respond."""
    samples: dict[str, dict[Name, float]] = {
        label.removeprefix("w").replace("_", "-"): {_UP: 0.0}
        if of is None
        else {_UP: 1.0, _START: of[0], _CALLS: of[1]}
        for label, of in workers.items()
    }
    return Page(at, samples)


def added(*pages: Page) -> list[tuple[float, float]]:
    """Return the calls a second and the calls in all after each page."""
    meter = Meter()
    found = []
    for each in pages:
        rates = meter.add(each)
        found.append((rates.per_second(rates.recent.get(_CALLS, 0.0)) or 0.0, rates.total.get(_CALLS, 0.0)))
    return found


def test_calls_are_counted_from_the_first_page_on() -> None:
    """Over all workers, also where a method is called for the first time."""
    assert added(page(10, w0=(1, 100), w1=(1, 50)), page(12, w0=(1, 104), w1=(1, 56))) == [(0, 0), (5, 10)]
    first = Page(1, {"0": {_START: 1.0}})
    assert added(first, page(2, w0=(1, 7))) == [(0, 0), (7, 7)]


def test_each_process_is_counted_once_across_restarts() -> None:
    """A new one begins with zero, and one that hands over to it is still the same."""
    assert added(
        page(0, w0=(1, 100)),
        page(1, w0=(2, 3), w0_handover=(1, 110)),
        page(2, w0=(2, 5), w0_handover=(1, 111)),
        page(3, w0=(2, 6)),
        page(5, w0=(9, 4), w1=(9, 8)),
    ) == [(0, 0), (13, 13), (3, 16), (1, 17), (6, 29)]


def test_a_worker_that_did_not_respond_is_compared_with_what_it_said_last() -> None:
    """What it did before the first page is never counted."""
    assert added(page(0, w0=(1, 100)), page(1, w0=None), page(2, w0=(1, 104))) == [(0, 0), (0, 0), (4, 4)]
    assert added(page(0, w0=None), page(1, w0=(1, 900)), page(2, w0=(1, 902))) == [(0, 0), (0, 0), (2, 2)]
    assert added(page(0, w0=(1, 100)), page(1, w0=None), page(2, w0=(2, 3))) == [(0, 0), (0, 0), (3, 3)]


def test_calls_of_random_fleets_are_counted_exactly() -> None:
    """Workers that restart, hand over and freeze; all but the calls of a process that ends after its last page."""
    random_ = random.Random(17)  # noqa: S311 - no secret
    for _ in range(200):
        calls = dict.fromkeys(("w0", "w1", "w2"), 0)
        starts = {label: float(number) for number, label in enumerate(calls)}
        counted, pages, fresh = 0, [], 100.0
        pages.append(page(0, **{label: (starts[label], 0.0) for label in calls}))
        for at in range(1, 30):
            for label in calls:
                if random_.random() < 0.2:
                    fresh += 1
                    starts[label], calls[label] = fresh, 0
                more = random_.randrange(5)
                calls[label] += more
                counted += more
            pages.append(page(at, **{label: (starts[label], float(calls[label])) for label in calls}))
        assert added(*pages)[-1][1] == counted


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:9464", "http://127.0.0.1:9464/metrics"),
        ("[::1]:9464", "http://[::1]:9464/metrics"),
        ("http://keys.example.com/", "http://keys.example.com/metrics"),
        ("https://keys.example.com/a/metrics?x=1", "https://keys.example.com/a/metrics?x=1"),
        *(
            (each, None)
            for each in ("localhost", "127.0.0.1:0", "file:///etc/passwd", "http://", "a:b", "http://u:p@h/")
        ),
    ],
)
def test_a_metrics_page_is_named_by_its_address(given: str, url: str | None) -> None:
    """As `serve` takes it, or as a URL of HTTP."""
    if url is not None:
        assert url_of(given) == url
    else:
        with pytest.raises(ValueError, match="neither HOST:PORT nor"):
            url_of(given)


@pytest.mark.parametrize(
    "text", ["", "<html>", "other_total 1\n", "skilder_keys_x{\n", 'skilder_keys_calls_total{a="\n']
)
def test_another_page_is_refused(text: str) -> None:
    """It is a problem of the source, and no crash."""
    with pytest.raises(SourceError, match="metrics"):
        parsed(text)


def everything(names: tuple[str, ...] = _NAMES) -> Sources:
    """Return sources with something in each table, and a problem of each source."""
    samples: dict[Name, float] = {}
    for number in range(30):
        samples[_CALLS[0], (("code", "OK"), ("method", f"KeyService/Method{number}"))] = 10.0**number
        samples["skilder_keys_denials_total", (("reason", f"REASON_{number}"),)] = float(number)
        samples["skilder_keys_caller_duration_seconds_count", (("caller", f"caller-{number}"),)] = 2.0
        samples["skilder_keys_caller_duration_seconds_sum", (("caller", f"caller-{number}"),)] = float(number)
    workers = [Worker(str(each), "cached", 0.2, 1.0, 0.5, 2.0**27) for each in range(20)]
    rates = Rates(2.0, samples, samples, [*workers, Worker("20"), Worker("21", "direct")], [1, 0, 3])
    used = [Used(name, "acme", 5 - at % 5, 1) for at, name in enumerate(names)]
    busiest = Busiest(2, used, used, datetime(2026, 11, 26, tzinfo=UTC))
    return Sources(Reading(rates, 0.0, "connection \x1b[31mrefused " * 9), Reading(busiest, 0.0, "away"))


class _Stream(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # as a real stream has it
        """Return the encoding."""
        return self._encoding


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "gb18030"])
@pytest.mark.parametrize("sources", [everything(), Sources(Reading(), Reading()), everything(())])
def test_no_line_is_too_wide_and_no_screen_too_high(sources: Sources, encoding: str) -> None:
    """At every size, with every name; nothing in a name controls the terminal, and the encoding has each character."""
    view = View("127.0.0.1:50051", "http://127.0.0.1:9464/metrics", _Stream(encoding))
    for width in (1, 2, 20, 40, 73, 74, 80, 120, 200):
        for height in (1, 2, 5, 24, 60):
            lines = view.screen(sources, width, height, "q quits")
            assert len(lines) == height
            for line in lines:
                text = as_text(line, view.stream)
                assert cell_len(text) <= width, (width, height, text)
                assert UNSAFE.search(text) is None
                text.encode(encoding)
        for line in view.page(sources, width):
            assert cell_len(as_text(line, view.stream)) <= width


def test_tables_say_how_much_they_leave_out_and_what_is_wrong_comes_first() -> None:
    """On a screen that is too small for everything."""
    view = View("server", "http://page", _Stream("utf-8"))
    shown = [as_text(line, view.stream) for line in view.screen(everything(), 80, 30, "q quits")]
    text = "\n".join(shown)
    rows = next(at for at, line in enumerate(shown) if line.endswith(" +17"))
    assert "20 down" in shown[rows + 1]
    assert "21 direct" in shown[rows + 2]
    assert "method +2" in text
    assert "caller-29" in shown[rows + 1], "the slowest one"
    assert "metrics of http://page" in text
    assert shown[-1].startswith("q quits  rates of 2.0 s, keys and tools counted until 00:00:00Z")
    assert "2 more" not in text


def test_numbers_are_what_the_page_says() -> None:
    """The headline, the quantiles by the bounds of the buckets, and the mean of a caller."""
    bucket = "skilder_keys_call_duration_seconds_bucket"
    labels = (("code", "OK"), ("method", "KeyService/GetKey"), ("transport", "grpcio"))
    recent: dict[Name, float] = {
        _CALLS: 97.0,
        (_CALLS[0], (("code", "NOT_FOUND"), ("method", "KeyService/GetKey"))): 3.0,
        ("skilder_keys_grants_total", ()): 80.0,
        ("skilder_keys_denials_total", (("reason", "EXPIRED"),)): 20.0,
        ("skilder_keys_caller_duration_seconds_count", (("caller", "gateway"),)): 100.0,
        ("skilder_keys_caller_duration_seconds_sum", (("caller", "gateway"),)): 0.5,
        **{(bucket, (*labels, ("le", le))): n for le, n in (("0.001", 50.0), ("5.0", 98.0), ("+Inf", 100.0))},
    }
    rates = Rates(10.0, recent, recent, [Worker("0", "cached"), Worker("1")], [])
    sources = Sources(Reading(rates), Reading())
    assert headline(sources) == [
        "10.0 calls/s",
        "0.3 failed/s",
        "8.0 granted/s",
        "2.0 denied/s",
        "1 of 2 workers up",
    ]
    methods, denials, callers, workers, keys, _ = sections(sources)
    assert [row.cells for row in methods.rows] == [("10.0", "0.3", "<1 ms", ">5 s", "100", "GetKey")]
    assert [row.cells for row in denials.rows] == [("2.0", "20", "expired")]
    assert [row.cells for row in callers.rows] == [("5 ms", "10.0", "100", "gateway")]
    assert [row.cells[-1] for row in workers.rows] == ["1 down", "0 cached"]
    assert not keys.rows
    first = replace(rates, seconds=0.0)
    assert headline(Sources(Reading(first), Reading()))[0] == "- calls/s"
    assert math.isinf(rates.workers[1].lease_age)


def test_each_band_has_rows_as_long_as_there_is_room() -> None:
    """As many as it wants, where there is room for all."""
    tables = sections(everything())
    for height in range(0, 60, 7):
        lines = arranged(tables, 80, height, "…")
        assert len(lines) <= height
    assert len(arranged(tables, 40, None, "…")) == sum(len(each.rows) + 2 for each in tables) - 1


def test_a_source_that_fails_keeps_its_last_value() -> None:
    """With the reason, until it can be read again; also where the reason is unexpected."""
    outcomes: list[int | Exception] = [1, SourceError("away"), ZeroDivisionError("odd"), 2]

    def read() -> int:
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    reader = Reader(read, 1.0, lambda: None)
    seen = []
    while outcomes:
        reader.attempt()
        seen.append((reader.latest.value, reader.latest.problem))
    assert seen == [(1, ""), (1, "away"), (1, "unexpected: odd"), (2, "")]
