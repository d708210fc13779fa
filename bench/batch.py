"""BatchAuthorize compared with Authorize: how many tokens a second one core decides."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from bench import seed
from bench.authorize import METHOD
from bench.load import Calls
from bench.plot import Bar
from bench.report import ratio_row
from bench.rounds import in_turn, medians, ratios
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from bench.environment import Environment
    from bench.report import Report

_TOKENS = 100
_AUTHORIZES = 4_000
_BATCHES = 1_000
_AT_ONCE = 16


def run(environment: Environment, report: Report) -> None:
    """Measure batches of a hundred tokens whose versions have not changed, and the same tokens one by one."""
    with environment.server("batches") as server:
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
        )
    in_batch, one_held, one_whole = medians(rounds, lambda sample: 1e6 / sample.cpu)
    in_batch *= _TOKENS
    for name, index, each in (("unchanged versions", 1, one_held), ("hundred-tool sets", 2, one_whole)):
        spread = ratios([(sides[index], sides[0]) for sides in rounds], attrgetter("cpu")).times(_TOKENS)
        row = f"tokens a second and core in batches of {_TOKENS}, to Authorize with {name}"
        results = {"batch_tokens_per_core_second": in_batch, "calls_per_core_second": each}
        report.add(ratio_row(row, spread, 20, results, "at least"))
    cpu, postgres = (
        medians(rounds, quantity)[0] / _TOKENS for quantity in (attrgetter("cpu"), attrgetter("database_cpu"))
    )
    report.bars.append(Bar("a token in a batch of 100", cpu - postgres, postgres))
