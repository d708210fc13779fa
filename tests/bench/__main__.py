"""Measures Authorize against an empty method, both in turn, several times over, and writes docs/performance.md."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import grpc
import psutil

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import catalog_service_pb2, key_pb2, key_service_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from tests.bench.load import ROOT, Sample, Target, load
from tests.bench.machine import machine
from tests.support.process import serving_process
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 5
DOCUMENT = ROOT / "docs" / "performance.md"
_TABLE = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """What is asked, and how."""

    name: str
    request: pb.AuthorizeRequest
    calls: int
    concurrency: int


def main() -> None:
    """Runs all cases and writes what they took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving_process(folder, SKILDER_KEYS_LOG_FORMAT="json") as server:
            target, token, version = prepare(folder, server.address, server.process.pid)
            rows = []
            for case in cases(token, version):
                body = answer(target, case.request)
                with empty_server(folder, body) as empty:
                    rows.append(row(case, len(body), measure(case, target, empty, folder)))
                print(rows[-1], flush=True)  # noqa: T201 - the progress of a command for people
    table = "\n".join([HEADER, *rows])
    text = DOCUMENT.read_text("utf-8")
    figures = f"{machine()}\n\n{table}\n"
    DOCUMENT.write_text(_TABLE.sub(lambda match: match[1] + figures + match[2], text), "utf-8")
    print(f"\n{figures}\nwritten to {DOCUMENT.relative_to(ROOT)}")  # noqa: T201 - the same


def cases(token: str, version: str) -> tuple[Case, ...]:
    """Answers what is measured: one call at a time for latency, sixteen for CPU and rate."""
    whole = pb.AuthorizeRequest(token=token)
    held = pb.AuthorizeRequest(token=token, tool_set_version=version)
    tool = pb.AuthorizeRequest(token=token, tool_id="slack.slack_post_message")
    return (
        Case("hundred-tool set, 1 at a time", whole, 1_000, 1),
        Case("hundred-tool set, 16 at a time", whole, 3_000, 16),
        Case("unchanged version, 1 at a time", held, 1_000, 1),
        Case("unchanged version, 16 at a time", held, 3_000, 16),
        Case("one tool, 1 at a time", tool, 1_000, 1),
        Case("one tool, 16 at a time", tool, 3_000, 16),
    )


def measure(case: Case, target: Target, empty: Target, folder: Path) -> list[tuple[Sample, Sample]]:
    """Loads both in turn, so that a machine that grows slower does so for both; the first round warms up."""
    rounds = []
    for _ in range(ROUNDS + 1):
        ours = load(target, case.request, folder, calls=case.calls, concurrency=case.concurrency)
        theirs = load(empty, case.request, folder, calls=case.calls, concurrency=case.concurrency)
        rounds.append((ours, theirs))
    return rounds[1:]


HEADER = """\
| case | bytes | CPU µs a call | of it Postgres | empty | ratio | p50 µs | empty | ratio | p99 µs | empty | ratio \
| calls/s | empty |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(case: Case, size: int, rounds: list[tuple[Sample, Sample]]) -> str:
    """Answers a line of the table: medians, and the median of the ratios round by round, with the extremes."""
    cells = [case.name, f"{size:,}"]
    for name in ("cpu", "p50", "p99"):
        ours = [getattr(sample, name) for sample, _ in rounds]
        theirs = [getattr(sample, name) for _, sample in rounds]
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        cells.append(f"{median(ours):,.0f}")
        if name == "cpu":
            cells.append(f"{median(sample.database_cpu for sample, _ in rounds):,.0f}")
        cells.append(f"{median(theirs):,.0f}")
        cells.append(f"**{median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})")
    cells += [f"{median(sample.rate for sample in side):,.0f}" for side in zip(*rounds, strict=True)]
    return f"| {' | '.join(cells)} |"


def prepare(folder: Path, address: str, pid: int) -> tuple[Target, str, str]:
    """Applies the example workspace, issues a key, and answers the target, the token and its tool set's version."""
    token = (folder / "data" / "operator-token").read_text("ascii").strip()
    postmaster = int((folder / "data" / "postgres" / "postmaster.pid").read_text("ascii").splitlines()[0])
    target = Target(address, {"authorization": f"Bearer {token}"}, psutil.Process(pid), psutil.Process(postmaster))
    metadata = tuple(target.metadata.items())
    with grpc.insecure_channel(address) as channel:
        apply = catalog_service_pb2.ApplyWorkspaceRequest(workspace=example_workspace())
        CatalogServiceStub(channel).ApplyWorkspace(apply, metadata=metadata)
        issue = key_service_pb2.IssueKeyRequest(
            type=key_pb2.KEY_TYPE_WORKSPACE, workspace_id="acme", description="Benchmark"
        )
        issued = KeyServiceStub(channel).IssueKey(issue, metadata=metadata).token
        response = AuthorizationServiceStub(channel).Authorize(pb.AuthorizeRequest(token=issued), metadata=metadata)
    return target, issued, response.granted.tool_set.version


def answer(target: Target, request: pb.AuthorizeRequest) -> bytes:
    """Answers the bytes that Authorize answers, for the empty method to answer too."""
    with grpc.insecure_channel(target.address) as channel:
        response = AuthorizationServiceStub(channel).Authorize(request, metadata=tuple(target.metadata.items()))
    return response.SerializeToString()


@contextmanager
def empty_server(folder: Path, body: bytes) -> Iterator[Target]:
    """Runs the empty method in a process of its own."""
    file = folder / "body.bin"
    file.write_bytes(body)
    command = [sys.executable, "-m", "tests.bench.empty_server", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the empty server has no output to read its address from")
            address = process.stdout.readline().strip()
            yield Target(address, {}, psutil.Process(process.pid))
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
