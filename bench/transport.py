"""The Envoy transport beside the grpcio transport, and both beside empty methods on the same transports."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING

from bench import seed
from bench.authorize import METHOD, cpu_row, prepare, response
from bench.load import Calls, JsonCalls
from bench.naive import service as naive
from bench.report import Row, ratio_row
from bench.rounds import Spread, ratios
from bench.sides import EMPTY_ASGI, EMPTY_GRPCIO, ENVOY, GRPCIO, NAIVE
from skilder.keys.v1 import authorization_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.environment import Environment
    from bench.load import Sample, Target
    from bench.report import Report
    from bench.server import Server

    Round = Mapping[str, Sample]

MANY = 64
"""This many concurrent calls, over four connections, keep two cores busy on every side."""

TOOL = "slack.slack_post_message"
"""A tool that every key of the example workspace reaches."""

_WHOLE, _ONE_TOOL = "hundred-tool set", "one tool"
# How many calls are made first, to warm up and to see how many fit into the time.
_WARM_UP = {1: 300, 16: 1_000, MANY: 2_000}
_SECONDS = 0.4
# A slow side gets this part of the calls to warm up.
_SLOW = 0.2
_PEAK_TRIES = 3
# Where the kernel places the generator beside a server's threads changes the rate by a fifth, from run to run.
_TURNS = 3
_OPEN_LOOP_SECONDS = 2
_TOKENS = 100
BATCH_ROW = f"tokens a second and core in batches of {_TOKENS}, by Envoy"
_BATCHES_AT_ONCE, _BATCHES = 16, 1_000


@dataclass(frozen=True)
class Side:
    """One of the sides of a comparison.

    Attributes:
        target: The server to call.
        calls: The calls to make.
        size: The bytes of each response.
        server: The server, where it is one of ours.
        tokens: How many tokens each call has.
    """

    target: Target
    calls: Calls | JsonCalls
    size: int
    server: Server | None = None
    tokens: int = 1

    @classmethod
    def of(cls, server: Server, request: pb.AuthorizeRequest) -> Side:
        """Return the side of a server and these calls."""
        return cls(server.target, Calls(METHOD, [request]), len(response(server, request)), server)

    @classmethod
    def simple(cls, application: naive.NaiveService, calls: JsonCalls) -> Side:
        """Return the side of the naive application and these calls."""
        return cls(application.target, calls, application.size(calls))

    def closed(self, environment: Environment, at_once: int) -> Sample:
        """Make calls in a closed loop, after a warm-up."""
        return self.measured(environment, at_once, self.warmed(environment, at_once))

    def warmed(self, environment: Environment, at_once: int, seconds: float = _SECONDS) -> int:
        """Make calls to warm up; return how many calls fit into this many seconds."""
        share = _SLOW if isinstance(self.calls, JsonCalls) else 1
        rate = self.measured(environment, at_once, environment.effort.some(round(_WARM_UP[at_once] * share))).rate
        return environment.effort.some(round(rate * seconds))

    def measured(self, environment: Environment, at_once: int, number: int) -> Sample:
        """Make this many calls in a closed loop; with one at a time, measure latencies too."""
        load = partial(
            environment.h2load.closed, self.target, self.calls, number=number, at_once=at_once, size=self.size
        )
        return self._checked(number, partial(load, latencies=at_once == 1))

    def open(self, environment: Environment, rate: int) -> Sample:
        """Make calls by gRPC in an open loop."""
        assert isinstance(self.calls, Calls)
        number = environment.effort.some(rate * _OPEN_LOOP_SECONDS)
        load = partial(environment.h2load.open, self.target, self.calls, number=number, rate=rate, size=self.size)
        return self._checked(number, load)

    def _checked(self, calls: int, load: Callable[[], Sample]) -> Sample:
        return load() if self.server is None else self.server.granting(calls * self.tokens, load)


def run(environment: Environment, report: Report) -> None:
    """Measure everything, with new processes in each round, in turn."""
    with (
        environment.transport("transport_envoy", ENVOY) as envoy,
        environment.transport("transport_grpcio", GRPCIO) as grpcio,
        ExitStack() as stack,
    ):
        token = prepare(envoy)
        application = stack.enter_context(naive.NaiveService.running(environment, envoy, [token]))
        asked = [(ENVOY, envoy, _requests(envoy, token)), (GRPCIO, grpcio, _requests(grpcio, prepare(grpcio)))]
        simple = {
            _WHOLE: Side.simple(application, JsonCalls("/authorize", naive.asks(token))),
            _ONE_TOOL: Side.simple(application, JsonCalls("/authorize", naive.asks(token, TOOL))),
        }
        whole = asked[0][2][_WHOLE]
        peak = _peak(environment, response(envoy, whole), Calls(METHOD, [whole]))
        found: dict[str, list[Round]] = {}
        for number in range(environment.effort.rounds):
            for _, server, _ in asked:
                server.replace_workers()
            # All limits are for the whole tool set.
            for name in (_WHOLE,) if number % 2 else asked[0][2]:
                with ExitStack() as empty:
                    ours = {transport: Side.of(server, requests[name]) for transport, server, requests in asked}
                    sides = _with_empty(environment, empty, ours, response(envoy, asked[0][2][name]))
                    if name in simple:
                        sides[NAIVE] = simple[name]
                    if number % 2:
                        sides = dict(reversed(sides.items()))
                    for case, samples in _measured(environment, sides, peak if name == _WHOLE else None).items():
                        found.setdefault(f"{name}, {case}", []).append(samples)
        for name, rounds in found.items():
            report.add_transports(name, rounds)
        _add_limits(report, found, peak)
        _add_batches(environment, report, envoy)


def _requests(server: Server, token: str) -> dict[str, pb.AuthorizeRequest]:
    """Return the calls to a server about one of its keys."""
    with server.caller() as caller:
        version = caller.granted(token).tool_set.version
    return {
        _WHOLE: pb.AuthorizeRequest(token=token),
        "unchanged version": pb.AuthorizeRequest(token=token, tool_set_version=version),
        _ONE_TOOL: pb.AuthorizeRequest(token=token, tool_id=TOOL),
    }


def _with_empty(environment: Environment, stack: ExitStack, ours: Mapping[str, Side], body: bytes) -> dict[str, Side]:
    """Return our sides, and empty ones in new processes, which get the same calls as our first."""
    calls = ours[ENVOY].calls
    return {
        **ours,
        EMPTY_GRPCIO: Side(stack.enter_context(environment.empty(body)), calls, len(body)),
        EMPTY_ASGI: Side(stack.enter_context(environment.empty_asgi(body)), calls, len(body)),
    }


def _measured(environment: Environment, sides: Mapping[str, Side], peak: int | None) -> dict[str, Round]:
    """Return the samples of each case on each side, including open loops where there is a peak."""
    found: dict[str, Round] = {_at_once(number): _closed(environment, sides, number) for number in _WARM_UP}
    if peak is not None:
        bearing = {name: side for name, side in sides.items() if name != NAIVE}
        found[_half(peak)] = {name: side.open(environment, round(peak / 2)) for name, side in bearing.items()}
        # Above a server's own peak, latencies only show how long the load lasted.
        bearing = {name: side for name, side in bearing.items() if name != GRPCIO}
        found[_whole(peak)] = {name: side.open(environment, peak) for name, side in bearing.items()}
    return found


def _closed(environment: Environment, sides: Mapping[str, Side], at_once: int) -> Round:
    """Return the sample of a closed loop on each side: with many concurrent calls, the median one of several."""
    if at_once < MANY:
        return {name: side.closed(environment, at_once) for name, side in sides.items()}
    numbers = {name: side.warmed(environment, at_once) for name, side in sides.items()}
    turns = [
        {name: side.measured(environment, at_once, numbers[name]) for name, side in sides.items()}
        for _ in range(_TURNS)
    ]
    return {name: sorted((turn[name] for turn in turns), key=attrgetter("rate"))[_TURNS // 2] for name in sides}


def _at_once(number: int) -> str:
    return f"{number} at a time"


def _half(peak: int) -> str:
    return f"{round(peak / 2):,} a second"


def _whole(peak: int) -> str:
    return f"{peak:,} a second"


def _peak(environment: Environment, body: bytes, calls: Calls) -> int:
    """Return the highest rate that the empty grpcio method serves."""
    with environment.empty(body) as target:
        side = Side(target, calls, len(body))
        return round(max(side.closed(environment, at_once).rate for _ in range(_PEAK_TRIES) for at_once in (16, MANY)))


def _add_limits(report: Report, found: Mapping[str, Sequence[Round]], peak: int) -> None:
    for at_once in (1, 16):
        rounds = [(each[NAIVE], each[EMPTY_GRPCIO]) for each in found[f"{_WHOLE}, {_at_once(at_once)}"]]
        report.compare(cpu_row(at_once), "ratio", ratios(rounds, attrgetter("cpu")).median)
    many, one, at_peak = (found[f"{_WHOLE}, {case}"] for case in (_at_once(MANY), _at_once(1), _whole(peak)))
    what, to_grpcio = "warm Authorize by Envoy", "to the empty grpcio method's"
    add = partial(_add_ratio, report)
    add(f"calls a second of a {what} {to_grpcio}, {MANY} at a time", many, "rate", 4, EMPTY_GRPCIO)
    add(f"CPU of a {what} {to_grpcio}, {MANY} at a time", many, "cpu", 0.3, EMPTY_GRPCIO)
    add(f"p50 of a {what} {to_grpcio}, 1 at a time", one, "p50", 1, EMPTY_GRPCIO)
    add(f"p99 of a {what} {to_grpcio}, at that one's peak rate", at_peak, "p99", 0.25, EMPTY_GRPCIO)
    add(f"calls a second of a {what} to an empty ASGI handler's, {MANY} at a time", many, "rate", 0.8, EMPTY_ASGI)
    costs = [sample.generator for each in many for sample in each.values()]
    report.note(
        f"With h2load, the empty grpcio method's peak is {peak:,} calls a second. A call of any side costs h2load "
        f"itself {median(costs):.0f} µs of the same cores (median); a call of a slow side costs it more."
    )


def _add_ratio(report: Report, name: str, rounds: Sequence[Round], quantity: str, limit: float, against: str) -> None:
    """Add the ratio of the Envoy transport to an empty side: at least for calls a second, at most for all else."""
    value = attrgetter(quantity)
    pairs = [(each[ENVOY], each[against]) for each in rounds]
    spread = ratios(pairs, value)
    results = {side.replace(" ", "_"): median(value(each[side]) for each in rounds) for side in (ENVOY, against)}
    if quantity == "p99":
        results["ratio_since_sending"] = ratios(pairs, attrgetter("sent_p99")).median
    if NAIVE in rounds[0]:
        report.compare(name, "ratio", ratios([(each[NAIVE], each[against]) for each in rounds], value).median)
    report.add(ratio_row(name, spread, limit, results, "at least" if quantity == "rate" else "at most"))


def _add_batches(environment: Environment, report: Report, server: Server) -> None:
    """Add how many tokens a core decides in batches of a hundred whose versions have not changed."""
    tokens = [key.token for key in seed.add_keys(server.sql, "acme", _TOKENS)]
    with server.caller() as caller:
        versions = [caller.granted(token).tool_set.version for token in tokens]
        request = pb.BatchAuthorizeRequest(
            requests=[
                pb.AuthorizeRequest(token=token, tool_set_version=version)
                for token, version in zip(tokens, versions, strict=True)
            ]
        )
        size = caller.batch_authorize(request).ByteSize()
    side = Side(server.target, Calls("AuthorizationService/BatchAuthorize", [request]), size, server, _TOKENS)
    number = environment.effort.some(_BATCHES)
    samples = [side.measured(environment, _BATCHES_AT_ONCE, number) for _ in range(environment.effort.rounds + 1)][1:]
    spread = Spread.of(_TOKENS * 1e6 / sample.cpu for sample in samples)
    results = {"cpu_us": median(sample.cpu for sample in samples), "batches_a_second": median(s.rate for s in samples)}
    report.add(Row(BATCH_ROW, spread.median, "per second", "at least", 100_000, spread, results))
