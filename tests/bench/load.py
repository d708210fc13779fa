"""Load from ghz, a compiled generator, and what it cost the server's processes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

    from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest

ROOT = Path(__file__).parents[2]
GHZ = ROOT / "build" / "bin" / "ghz"


@dataclass(frozen=True)
class Target:
    """A server to load.

    Attributes:
        address: Where it serves, on loopback.
        metadata: The caller's metadata.
        server: Its process.
        database: The parent of the Postgres processes that work for it, if any.
    """

    address: str
    metadata: dict[str, str]
    server: psutil.Process
    database: psutil.Process | None = None


@dataclass(frozen=True)
class Sample:
    """What one run of calls took.

    Attributes:
        cpu: CPU time of the server and its database, in microseconds a call.
        database_cpu: The database's part of it.
        p50, p99: Latency, in microseconds.
        rate: Calls a second.
    """

    cpu: float
    database_cpu: float
    p50: float
    p99: float
    rate: float


def load(target: Target, request: AuthorizeRequest, folder: Path, *, calls: int, concurrency: int) -> Sample:
    """Makes so many calls, so many at a time, in a closed loop over one connection for each four at a time."""
    data, metadata = folder / "request.bin", folder / "metadata.json"
    # Through files, so that no token stands among the arguments.
    data.write_bytes(request.SerializeToString())
    metadata.write_text(json.dumps(target.metadata))
    command = [
        *(str(GHZ), "--insecure", "--proto", "skilder/keys/v1/authorization_service.proto", "-i", str(ROOT / "protos")),
        *("--call", "skilder.keys.v1.AuthorizationService/Authorize", "-B", str(data), "-M", str(metadata)),
        *("-n", str(calls), "-c", str(concurrency), "--connections", str(max(1, concurrency // 4)), "-O", "json"),
        target.address,
    ]
    before = _cpu_seconds(target.server), _cpu_seconds(target.database)
    report = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=300).stdout)
    server, database = _cpu_seconds(target.server) - before[0], _cpu_seconds(target.database) - before[1]
    if report["statusCodeDistribution"] != {"OK": calls}:
        raise RuntimeError(f"not every call was answered: {report['statusCodeDistribution']}")
    latency = {each["percentage"]: each["latency"] / 1000 for each in report["latencyDistribution"]}
    per_call = 1e6 / calls
    return Sample((server + database) * per_call, database * per_call, latency[50], latency[99], report["rps"])


def _cpu_seconds(parent: psutil.Process | None) -> float:
    if parent is None:
        return 0.0
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)
