"""A service with two workers and many keys in use, which can be stopped and started again while it is called."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

from bench.cpu import cpu_seconds
from bench.openloop import Asked
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.stock import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.around import LoadOf
    from bench.environment import Environment, Postgres
    from bench.openloop import Timeline
    from bench.server import Server

WORKERS = 2
_PATH = "/skilder.keys.v1.AuthorizationService/Authorize"
_CONNECTIONS_EACH = 4
_CANDIDATES = 48
_WARM_AT_ONCE = 32  # of each worker
_PATIENCE = 60.0


@dataclass(frozen=True)
class Cost:
    """What first calls cost: how many, and the CPU seconds of the service and its database."""

    calls: int
    cpu: float

    @property
    def per_core_second(self) -> float:
        """How many of them one core does in a second."""
        return self.calls / self.cpu


class KeysInUse:
    """The service, on one address and one database. It runs until the context ends."""

    server: Server

    def __init__(
        self, environment: Environment, transport: str, postgres: Postgres, database: str, *, again: bool = False
    ) -> None:
        self.environment = environment
        self.transport = transport
        self._postgres = postgres
        self._database = database
        self._listen = f"127.0.0.1:{free_port()}"
        self._again = again
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all processes; the first time on a new database."""
        self.server = self._running.enter_context(
            self.environment.server(
                self._database,
                workers=WORKERS,
                postgres=self._postgres,
                again=self._again,
                SKILDER_KEYS_LISTEN=self._listen,
                SKILDER_KEYS_TRANSPORT=self.transport,
                SKILDER_KEYS_CALLERS=str(self.environment.callers),
                # A connection that ends would change what is compared.
                SKILDER_KEYS_MAX_CONNECTION_AGE="3600",
            )
        )
        self._again = True

    def stop(self) -> None:
        """Stop all processes."""
        self._running.close()

    def end_workers(self) -> None:
        """End all workers, and return when they have ended; others replace them."""
        workers = self.server.workers()
        for worker in workers:
            worker.terminate()
        psutil.wait_procs(workers, _PATIENCE)

    def memory(self) -> int:
        """Return the bytes that would be free if the workers ended."""
        return sum(int(worker.memory_full_info().uss) for worker in self.server.workers())

    def asked(self, requests: Sequence[bytes], probes: Sequence[bytes] = ()) -> Asked:
        """Return calls of Authorize over connections to both workers, the same number to each."""

        def pick(ports: Sequence[int]) -> list[int]:
            return [number for found in self._by_worker(ports) for number in found[:_CONNECTIONS_EACH]]

        return self._asked(requests, pick, probes)

    def load(self, requests: Sequence[bytes], rate: float, probes: Sequence[bytes] = ()) -> LoadOf:
        """Return what starts calls of Authorize at a rate."""
        return lambda seconds: self.environment.open_loop.running(self.asked(requests, probes), rate, seconds)

    def warm(self, requests: Sequence[bytes]) -> tuple[Cost, Cost]:
        """Have every worker know every key: the first worker half of them, the second the others, then the rest.

        Return the cost of the first calls, and that of the second, whose keys another process has seen already.
        """
        half = len(requests) // 2
        first, second = requests[:half], requests[half:]
        return self._halves(first, second), self._halves(second, first)

    def _halves(self, *parts: Sequence[bytes]) -> Cost:
        before = self._cpu()
        together = threading.Barrier(len(parts))

        def once(worker: int, requests: Sequence[bytes]) -> Timeline:
            def pick(ports: Sequence[int]) -> list[int]:
                numbers = self._by_worker(ports)[worker][:_CONNECTIONS_EACH]
                together.wait()
                return numbers

            return self.environment.open_loop.once(self._asked(requests, pick), _WARM_AT_ONCE)

        with ThreadPoolExecutor() as threads:
            for timeline in threads.map(once, range(len(parts)), parts):
                timeline.require_granted()
        return Cost(sum(map(len, parts)), self._cpu() - before)

    def _asked(
        self, requests: Sequence[bytes], pick: Callable[[Sequence[int]], Sequence[int]], probes: Sequence[bytes] = ()
    ) -> Asked:
        target = self.server.target
        return Asked(target.address, _PATH, requests, (target.server, target.database), pick, _CANDIDATES, probes)

    def _by_worker(self, ports: Sequence[int]) -> list[list[int]]:
        found = self.server.connections(ports)
        if len(found) != WORKERS or any(len(each) < _CONNECTIONS_EACH for each in found):
            raise RuntimeError(f"the connections are not spread over {WORKERS} workers: {found}")
        return found

    def _cpu(self) -> float:
        return cpu_seconds(self.server.target.server) + cpu_seconds(self.server.target.database)


def asks(token: str, tool_id: str) -> bytes:
    """Return a call about one tool."""
    return pb.AuthorizeRequest(token=token, tool_id=tool_id).SerializeToString()
