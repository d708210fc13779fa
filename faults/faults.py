"""What goes wrong in a run: random faults, and some that are timed to do the most harm."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from faults.fleet import FAR, NEAR
from faults.history import now
from faults.postgres import send
from faults.queries import Query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    import psutil

    from faults.clients import Clients
    from faults.fleet import Fleet, Server
    from faults.load import Load

FENCE_SESSION = "skilder-keys fence"
POOL_SESSION = "skilder-keys"


@dataclass
class Faults:
    """Causes faults, one after the other.

    Attributes:
        done: The faults so far, each with the time at which it began.
    """

    fleet: Fleet
    load: Load
    clients: Clients
    dice: Random
    done: list[tuple[int, str]] = field(default_factory=list)

    async def run(self, menu: Sequence[str], stopping: asyncio.Event) -> None:
        """Cause the faults of a menu, in a new order each time, until it is stopped."""
        waiting: list[str] = []
        while not stopping.is_set():
            waiting = waiting or self.dice.sample(menu, len(menu))
            name = waiting.pop()
            self.done.append((now(), name))
            # Postgres may still be down from the fault before; then there is nothing to do.
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await _FAULTS[name](self)
            await asyncio.sleep(self.dice.uniform(0.1, 0.8))

    async def kill_worker(self) -> None:
        """Kill a worker with SIGKILL; its parent starts another."""
        server = self._server()
        worker = self._worker(server)
        if worker is not None:
            server.kill_worker(worker)

    async def kill_server(self) -> None:
        """Kill a parent, or all its processes, with SIGKILL; workers without a parent end by themselves."""
        self._server().kill(workers=self.dice.random() < 0.5)

    async def reload_server(self) -> None:
        """Send SIGHUP: new workers replace the old ones, which run on until their connections are closed."""
        self._server().reload()

    async def stop_worker(self) -> None:
        """Send SIGSTOP, and SIGCONT after less or more than a lease."""
        worker = self._worker(self._server())
        if worker is not None:
            send(worker, signal.SIGSTOP)
            try:
                await asyncio.sleep(self.dice.uniform(0.1, 4.0))
            finally:
                send(worker, signal.SIGCONT)

    async def stop_worker_over_revocation(self) -> None:
        """Stop a worker that knows a key, revoke the key, and call the worker, which responds when it continues.

        A far worker then also learns late that it is no longer a reader.
        """
        server = self._server()
        key = await self.load.issued()
        await self.clients.ask_all(key)
        worker = self._worker(server)
        if worker is None:
            return
        asked = self.clients.of(server.name)
        self.fleet.proxy.slow(self.dice.uniform(0.0, 0.4), FENCE_SESSION)
        send(worker, signal.SIGSTOP)
        try:
            await self.load.revoked(key, self.dice.choice(self.clients.of(FAR if server.name == NEAR else NEAR)))
            asking = asyncio.create_task(self.clients.ask_all(key, asked))
            await asyncio.sleep(self.dice.uniform(0.05, 0.5))
        finally:
            send(worker, signal.SIGCONT)
        await asking
        self.fleet.proxy.resume()
        await asyncio.sleep(0.5)
        # By now the worker is a reader again.
        await self.clients.ask_all(key, asked)
        self.load.show(key, good=False)

    async def kill_postgres(self) -> None:
        """Kill all of Postgres with SIGKILL, and start it again after a moment."""
        await asyncio.to_thread(self.fleet.postgres.kill)
        await asyncio.sleep(self.dice.uniform(0.0, 1.5))
        await asyncio.to_thread(self.fleet.postgres.start)

    async def crash_session(self) -> None:
        """Kill one backend with SIGKILL: Postgres ends all sessions and recovers by itself."""
        sessions = await self.fleet.postgres.sessions("skilder-keys%")
        if sessions:
            self.fleet.postgres.crash(self.dice.choice(sessions))

    async def end_sessions(self) -> None:
        """End some connections of the service to Postgres."""
        sessions = await self.fleet.postgres.sessions("skilder-keys%")
        chosen = self.dice.sample(sessions, self.dice.randint(1, len(sessions))) if sessions else []
        await self.fleet.postgres.terminate(chosen)

    async def end_fence_sessions(self) -> None:
        """End the fence's connections: nobody learns of changes until there are new ones."""
        await self.fleet.postgres.terminate(await self.fleet.postgres.sessions(FENCE_SESSION))

    async def freeze_network(self) -> None:
        """Stall the network between the far server and Postgres, for less or more than a lease."""
        self.fleet.proxy.stall()
        await asyncio.sleep(self.dice.uniform(0.1, 4.0))
        self.fleet.proxy.resume()

    async def freeze_network_over_revocation(self) -> None:
        """Stall the network of a worker that knows a key, revoke the key, and then call the worker."""
        key = await self.load.issued()
        await self.clients.ask_all(key)
        self.fleet.proxy.stall()
        try:
            await self.load.revoked(key, self.dice.choice(self.clients.of(NEAR)))
            asking = asyncio.create_task(self.clients.ask_all(key, self.clients.of(FAR)))
            await asyncio.sleep(self.dice.uniform(0.05, 1.0))
        finally:
            self.fleet.proxy.resume()
        await asking
        self.load.show(key, good=False)

    async def break_network(self) -> None:
        """Close the far server's connections to Postgres, or those of one kind."""
        self.fleet.proxy.cut(self.dice.choice((None, FENCE_SESSION, POOL_SESSION)))

    async def lose_confirmations(self) -> None:
        """Break the far server's connections when something was written into the journal of activity.

        Its responses are delayed, so if it was the far server's, the commit is not confirmed. The near one may always
        write first, so at times the second row counts.
        """
        self.fleet.proxy.slow(self.dice.uniform(0.1, 0.2), POOL_SESSION)
        try:
            for _ in range(3):
                await self.fleet.postgres.until_counted(self.dice.choice((1, 2)), 1.5)
                self.fleet.proxy.cut(POOL_SESSION)
        finally:
            self.fleet.proxy.resume()

    async def slow_fence_over_revocation(self) -> None:
        """Delay the far worker's news that a key was revoked."""
        far = self.clients.of(FAR)
        keys = [await self.load.issued() for _ in range(3)]
        self.fleet.proxy.slow(self.dice.uniform(0.05, 0.4), FENCE_SESSION)
        try:
            for key in keys:
                await self.load.revoked_while_hot(key, far, self.dice.choice(self.clients.of(NEAR)))
                self.load.show(key, good=False)
        finally:
            self.fleet.proxy.resume()

    async def overtake_loads(self) -> None:
        """Revoke a key while the far worker loads it for the first time and learns of the change before it has read.

        The key was used elsewhere before, so that writing its first use does not reveal the revocation.
        """
        near, far = self.clients.of(NEAR), self.clients.of(FAR)
        keys = [await self.load.issued() for _ in range(5)]
        for key in keys:
            await self.clients.ask(Query(key, key.token), near[0])
        self.fleet.proxy.slow(self.dice.uniform(0.05, 0.15), POOL_SESSION)
        try:
            for key in keys:
                reading = asyncio.create_task(self.clients.ask_all(key, far))
                await asyncio.sleep(self.dice.uniform(0.0, 0.2))
                await self.load.revoked(key, self.dice.choice(near))
                await self.clients.ask_all(key, far)
                await reading
                await self.clients.ask_all(key, far)
                self.load.show(key, good=False)
        finally:
            self.fleet.proxy.resume()

    def _server(self) -> Server:
        return self.dice.choice(list(self.fleet.servers.values()))

    def _worker(self, server: Server) -> psutil.Process | None:
        workers = server.workers()
        return self.dice.choice(workers) if workers else None


_FAULTS: dict[str, Callable[[Faults], Awaitable[None]]] = {
    "kill a worker": Faults.kill_worker,
    "kill a server": Faults.kill_server,
    "reload a server": Faults.reload_server,
    "stop a worker": Faults.stop_worker,
    "stop a worker over a revocation": Faults.stop_worker_over_revocation,
    "kill Postgres": Faults.kill_postgres,
    "crash a session of Postgres": Faults.crash_session,
    "end some sessions": Faults.end_sessions,
    "end the fence's sessions": Faults.end_fence_sessions,
    "freeze the network": Faults.freeze_network,
    "freeze the network over a revocation": Faults.freeze_network_over_revocation,
    "break the network": Faults.break_network,
    "lose confirmations": Faults.lose_confirmations,
    "slow the fence down over a revocation": Faults.slow_fence_over_revocation,
    "overtake loads": Faults.overtake_loads,
}

EVERYTHING = tuple(_FAULTS)
