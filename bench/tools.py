"""A workspace of ten thousand tools compared with one of ten, where the caller already has the tool set."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from bench.authorize import METHOD
from bench.load import Calls
from bench.naive.service import NaiveService, asks
from bench.report import ratio_row
from bench.rounds import again, in_turn, medians, ratios
from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE, Hat, Skill, Tool, Workspace
from tests.support.shapes import big_workspace

if TYPE_CHECKING:
    from bench.environment import Environment
    from bench.load import Sample
    from bench.report import Report

_CALLS = 4_000
_SIMPLE_CALLS = 200
_AT_ONCE = 16
_OPEN_LOOP_SECONDS = 3


def run(environment: Environment, report: Report) -> None:
    """Measure both on one server."""
    number = environment.effort.some(_CALLS)
    with environment.server("tools") as server:
        asked, tokens = [], []
        with server.caller() as caller:
            for workspace in (big_workspace(), _ten_tools()):
                caller.apply(workspace)
                token = caller.issue(workspace.id)
                version = caller.granted(token).tool_set.version
                tokens.append((token, workspace.tools[0].id))
                asked.append(Calls(METHOD, [pb.AuthorizeRequest(token=token, tool_set_version=version)]))

        def closed(calls: Calls) -> Sample:
            load = partial(environment.load.closed, server.target, calls)
            return server.granting(number, partial(load, number=number, at_once=_AT_ONCE))

        against = "with 10,000 tools to 10"
        with NaiveService.running(environment, server, [token for token, _ in tokens]) as application:
            simple = [
                partial(application.each_once, environment, [asks(token, tool)] * _SIMPLE_CALLS, _AT_ONCE)
                for token, tool in tokens
            ]
            rounds = in_turn(2 * environment.effort.rounds - 1, *(partial(closed, calls) for calls in asked), *simple)
        ours, theirs, *_ = medians(rounds, attrgetter("cpu"))
        spread = ratios(rounds, attrgetter("cpu"))
        name = f"CPU of a warm Authorize {against}"
        report.add(ratio_row(name, spread, 1.05, {"many_us": ours, "few_us": theirs}))
        report.compare(name, "ratio", ratios([each[2:] for each in rounds], attrgetter("cpu")).median)

        rate = round(medians(rounds, attrgetter("rate"))[1] / 2)
        due = environment.effort.some(rate * _OPEN_LOOP_SECONDS)

        def opened(calls: Calls) -> Sample:
            return server.granting(due, partial(environment.load.open, server.target, calls, number=due, rate=rate))

        rounds = in_turn(
            environment.effort.rounds, *(partial(again, partial(opened, calls)) for calls in asked), warm=True
        )
        ours, theirs = medians(rounds, attrgetter("p50"))
        spread = ratios(rounds, attrgetter("p50"))
        name = f"p50 of a warm Authorize {against}, at half of the peak rate"
        report.add(ratio_row(name, spread, 1.05, {"rate": rate, "many_us": ours, "few_us": theirs}))


def _ten_tools() -> Workspace:
    """Return a workspace with one hat that reaches ten tools."""
    tools = [Tool(id=f"t{number}", name=f"tool_{number}", mcp_server="server") for number in range(10)]
    skill = Skill(id="s", name="S", tool_ids=[tool.id for tool in tools])
    hat = Hat(id="h", name="H", audience=HAT_AUDIENCE_WORKSPACE, skill_ids=["s"])
    return Workspace(id="ten", name="Ten", tools=tools, skills=[skill], hats=[hat])
