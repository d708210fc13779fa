"""Authorize compared with an empty method of the same response size: CPU time and latency, from memory and without."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from bench.load import Calls
from bench.plot import Bar, Curve
from bench.report import ratio_row
from bench.rounds import again, in_turn, medians, ratios
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.environment import Environment
    from bench.load import Sample, Target
    from bench.report import Report
    from bench.server import Server

METHOD = "AuthorizationService/Authorize"

_WHOLE = "hundred-tool set"
_AT_ONCE = {1: 1_200, 16: 3_000}
_PEAK_AT_ONCE = (16, 64)
_OPEN_LOOP_SECONDS = 3
_TIMES_OPEN = 3


def run(environment: Environment, report: Report) -> None:
    """Measure all of it."""
    with environment.server("answers") as server, environment.server("direct") as direct:
        token, direct_token = prepare(server), prepare(direct)
        with server.caller() as caller:
            version = caller.granted(token).tool_set.version
        whole = pb.AuthorizeRequest(token=token)
        for name, request in {
            _WHOLE: whole,
            "unchanged version": pb.AuthorizeRequest(token=token, tool_set_version=version),
            "one tool": pb.AuthorizeRequest(token=token, tool_id="slack.slack_post_message"),
        }.items():
            _cpu(environment, report, server, name, request, from_memory=True)
        _latency_at_half_peak(environment, report, server, whole)
        with direct.without_lease():
            request = pb.AuthorizeRequest(token=direct_token)
            _cpu(environment, report, direct, "hundred-tool set, no lease", request, from_memory=False)
            _latency_of_all(environment, report, (server, whole), (direct, request))


def cpu_row(at_once: int) -> str:
    """Return the name of a limit."""
    return f"CPU of a warm Authorize to the empty method's, {at_once} at a time"


def prepare(server: Server) -> str:
    """Apply the example workspace, and return the token of one of its keys."""
    with server.caller() as caller:
        caller.apply(example_workspace())
        token = caller.issue("acme")
        caller.granted(token)
    return token


def _cpu(
    environment: Environment,
    report: Report,
    server: Server,
    name: str,
    request: pb.AuthorizeRequest,
    *,
    from_memory: bool,
) -> None:
    """Compare in a closed loop, process by process. The limit is for the hundred-tool set from memory."""
    calls = Calls(METHOD, [request])
    body = response(server, request)
    rounds: dict[int, list[tuple[Sample, ...]]] = {at_once: [] for at_once in _AT_ONCE}
    limited = from_memory and name == _WHOLE
    processes, each = (environment.effort.rounds, 3) if limited else (1, 2)
    for _ in range(processes):
        if from_memory:
            server.replace_workers()
        with environment.empty(body) as empty:
            for at_once, number in _AT_ONCE.items():
                load = partial(environment.load.closed, number=environment.effort.some(number), at_once=at_once)
                ours = partial(load, server.target, calls)
                granting = partial(server.granting, environment.effort.some(number), ours, from_memory=from_memory)
                rounds[at_once] += in_turn(each, granting, partial(load, empty, calls))
    for at_once, found in rounds.items():
        report.add_pair(f"{name}, {at_once} at a time", len(body), found)
        cpu, empty_cpu = medians(found, attrgetter("cpu"))
        if limited:
            results = {"authorize_us": cpu, "empty_us": empty_cpu}
            report.add(ratio_row(cpu_row(at_once), ratios(found, attrgetter("cpu")), 1.15, results))
    # The last one measured with sixteen at a time.
    postgres = medians(found, attrgetter("database_cpu"))[0]
    if limited:
        report.bars.append(Bar("the empty method", empty_cpu, 0))
    report.bars.append(Bar(f"Authorize, {name}", cpu - postgres, postgres))


def _latency_at_half_peak(
    environment: Environment, report: Report, server: Server, request: pb.AuthorizeRequest
) -> None:
    """Compare in an open loop, at half of the empty method's peak rate."""
    calls = Calls(METHOD, [request])
    body = response(server, request)
    with environment.empty(body) as empty:
        peak = _peak(environment, empty, calls)
        rate = round(peak / 2)
        report.note(
            f"The empty method's peak is {peak:,.0f} calls a second, so the open loop's rate is half of that, {rate:,}."
        )
        # The slowest hundredth of a second's calls are few, and other work on the machine decides which they are.
        times = _TIMES_OPEN * environment.effort.rounds
        rounds = _open_loop(environment, rate, empty, [(server, calls)], [True], times, warm=True)
    report.add_pair(f"hundred-tool set, {rate:,} a second", len(body), rounds)
    for percent in ("p50", "p99"):
        spread = ratios(rounds, attrgetter(percent))
        ours, theirs = medians(rounds, attrgetter(percent))
        name = f"{percent} of a warm Authorize to the empty method's, at half of its peak rate"
        results = {
            "rate": rate,
            "authorize_us": ours,
            "empty_us": theirs,
            "ratio_since_sending": ratios(rounds, attrgetter(f"sent_{percent}")).median,
        }
        report.add(ratio_row(name, spread, 1.15, results))


def _latency_of_all(environment: Environment, report: Report, *sides: tuple[Server, pb.AuthorizeRequest]) -> None:
    """Compare the empty method, Authorize from memory, and Authorize without a lease at a rate that all can bear."""
    asked = [(server, Calls(METHOD, [request])) for server, request in sides]
    direct, calls = asked[-1]
    rate = round(_peak(environment, direct.target, calls) / 2)
    with environment.empty(response(*sides[0])) as empty:
        rounds = _open_loop(environment, rate, empty, asked, [True, False], environment.effort.rounds, warm=False)
    report.note(
        f"The plot's latencies are those of all rounds at {rate:,} calls a second, half of the peak without a lease."
    )
    names = ("Authorize from memory", "Authorize without a lease", "the empty method")
    curves = [
        Curve(name, sorted(latency for sample in side for latency in sample.latencies))
        for name, side in zip(names, zip(*rounds, strict=True), strict=True)
    ]
    report.curves = [curves[-1], *curves[:-1]]


def _open_loop(
    environment: Environment,
    rate: int,
    empty: Target,
    asked: Sequence[tuple[Server, Calls]],
    from_memory: Sequence[bool],
    rounds: int,
    *,
    warm: bool,
) -> list[tuple[Sample, ...]]:
    """Return the rounds of these calls, and those of the empty method last."""
    number = environment.effort.some(rate * _OPEN_LOOP_SECONDS)
    load = partial(environment.load.open, number=number, rate=rate)
    ours = [
        partial(server.granting, number, partial(load, server.target, calls), from_memory=memory)
        for (server, calls), memory in zip(asked, from_memory, strict=True)
    ]
    sides = (*ours, partial(load, empty, asked[0][1]))
    return in_turn(rounds, *(partial(again, side) for side in sides), warm=warm)


def _peak(environment: Environment, target: Target, calls: Calls) -> float:
    """Return the highest rate that a target serves."""
    number = environment.effort.some(_AT_ONCE[16])
    return max(environment.load.closed(target, calls, number=number, at_once=at_once).rate for at_once in _PEAK_AT_ONCE)


def response(server: Server, request: pb.AuthorizeRequest) -> bytes:
    """Return the bytes of Authorize's response, for the empty method to return too."""
    with server.caller() as caller:
        return caller.authorize(request).SerializeToString()
