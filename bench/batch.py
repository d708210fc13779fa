"""BatchAuthorize compared with Authorize: how many tokens a second one core decides."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING

from bench import seed
from bench.authorize import METHOD
from bench.load import Calls, JsonCalls
from bench.naive.service import NaiveService, asks
from bench.plot import Bar
from bench.report import ratio_row
from bench.rounds import in_turn, medians, ratios
from bench.transport import BATCH_ROW, TOOL, Side
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.environment import Environment
    from bench.load import Sample
    from bench.report import Report

_TOKENS = 100
_AUTHORIZES = 4_000
_BATCHES = 1_000
_AT_ONCE = 16
_SIMPLE_BATCHES, _SIMPLE_CALLS = 30, 500


def run(environment: Environment, report: Report) -> None:
    """Measure batches of a hundred tokens whose versions have not changed, and the same tokens one by one."""
    with environment.server("batches") as server, ExitStack() as stack:
        with server.caller() as caller:
            caller.apply(example_workspace())
            tokens = [key.token for key in seed.add_keys(server.sql, "acme", _TOKENS)]
            versions = [caller.granted(token).tool_set.version for token in tokens]
        whole = [pb.AuthorizeRequest(token=token) for token in tokens]
        held = [
            pb.AuthorizeRequest(token=token, tool_set_version=version)
            for token, version in zip(tokens, versions, strict=True)
        ]
        batch = Calls("AuthorizationService/BatchAuthorize", [pb.BatchAuthorizeRequest(requests=held)])
        load = partial(environment.load.closed, server.target, at_once=_AT_ONCE)
        batches, calls = environment.effort.some(_BATCHES), environment.effort.some(_AUTHORIZES)
        rounds = in_turn(
            environment.effort.rounds,
            lambda: server.granting(_TOKENS * batches, lambda: load(batch, number=batches)),
            lambda: server.granting(calls, lambda: load(Calls(METHOD, held), number=calls)),
            lambda: server.granting(calls, lambda: load(Calls(METHOD, whole), number=calls)),
            *_simple(environment, stack.enter_context(NaiveService.running(environment, server, tokens)), tokens),
        )
    cpu = attrgetter("cpu")
    in_batch, one_held, one_whole = medians(rounds, lambda sample: 1e6 / sample.cpu)[:3]
    in_batch *= _TOKENS
    report.compare(BATCH_ROW, "per second", median(_TOKENS * 1e6 / sides[3].cpu for sides in rounds))
    for name, index, each in (("unchanged versions", 1, one_held), ("hundred-tool sets", 2, one_whole)):
        spread = ratios([(sides[index], sides[0]) for sides in rounds], cpu).times(_TOKENS)
        row = f"tokens a second and core in batches of {_TOKENS}, to Authorize with {name}"
        results = {"batch_tokens_per_core_second": in_batch, "calls_per_core_second": each}
        report.add(ratio_row(row, spread, 20, results, "at least"))
        report.compare(
            row, "ratio", ratios([(sides[3 + index], sides[3]) for sides in rounds], cpu).times(_TOKENS).median
        )
    whole_cpu, postgres = (medians(rounds, quantity)[0] / _TOKENS for quantity in (cpu, attrgetter("database_cpu")))
    report.bars.append(Bar("a token in a batch of 100", whole_cpu - postgres, postgres))


def _simple(
    environment: Environment, application: NaiveService, tokens: Sequence[str]
) -> Iterator[Callable[[], Sample]]:
    """Return the same of the naive application: in a batch, about one tool, and about all.

    It knows no versions. The shortest that it can return about a token is whether one tool is reached.
    """
    batch = b"[" + b",".join(asks(token, TOOL) for token in tokens) + b"]"
    for path, body, number in (
        ("/authorize_batch", batch, _SIMPLE_BATCHES),
        ("/authorize", asks(tokens[0], TOOL), _SIMPLE_CALLS),
        ("/authorize", asks(tokens[0]), _SIMPLE_CALLS),
    ):
        side = Side.simple(application, JsonCalls(path, body))
        yield partial(side.measured, environment, _AT_ONCE, environment.effort.some(number))
