"""The processes of a server, including its Postgres, as the operating system shows them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import psutil

from skilder.keys.v1 import catalog_service_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.supervisor import watchdog
from tests.support.workers import operator_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.process import ServerProcess

_SECONDS = 30


def family(pid: int) -> list[psutil.Process]:
    """Return all descendants of a process."""
    return psutil.Process(pid).children(recursive=True)


def worker_processes(parent: psutil.Process) -> list[psutil.Process]:
    """Return the server's worker processes, without its watchdog."""
    found = []
    for child in parent.children():
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and watchdog.__file__ not in child.cmdline():
                found.append(child)
    return found


def postmaster(data: Path) -> psutil.Process:
    """Return the Postgres that runs in a data folder."""
    return psutil.Process(int((data / "postgres" / "postmaster.pid").read_bytes().split()[0]))


def assert_gone(processes: Iterable[psutil.Process]) -> None:
    """Fail if one of these processes is still there after a while."""
    _, alive = psutil.wait_procs(list(processes), _SECONDS)
    left = [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert left == [], [each.cmdline() for each in left]


def until_database_works(server: ServerProcess, folder: Path) -> None:
    """Wait until a call that needs the database succeeds."""
    metadata = operator_metadata(server, folder)
    end = time.monotonic() + _SECONDS
    with grpc.insecure_channel(server.address) as channel:
        while True:
            call = CatalogServiceStub(channel).ListWorkspaces.with_call
            try:
                call(catalog_service_pb2.ListWorkspacesRequest(), metadata=metadata, timeout=_SECONDS)
            except grpc.RpcError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return
