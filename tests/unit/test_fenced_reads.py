"""Reads that are compared with the state of memory: what is accepted, and what puts the lease in doubt."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from skilder_keys.app.fence.lease import Lease
from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.revision import Revision
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class State(NamedTuple):
    """What a query returns."""

    revision: Revision
    server: str


class Memory:
    """A process at epoch 5 of a server, and the states that its next queries find.

    Attributes:
        expired: How often the connections were replaced.
        dropped: How often memory was dropped.
    """

    def __init__(self, *states: tuple[int, str], leased: bool = True, server: str = "here") -> None:
        self.clock = FakeClock()
        self.lease = Lease(self.clock)
        self.lease.revision, self.lease.server = Revision(5, 5), server
        if leased:
            self.lease.renew(self.clock.now, self.clock.now + 2)
        self.expired = self.dropped = 0
        self._states = [State(Revision(epoch, epoch), name) for epoch, name in states]
        self.reads = FencedReads(self, self.lease)  # type: ignore[arg-type]
        self.reads.on_doubt = self._drop

    def _drop(self) -> None:
        assert not self.lease.valid()
        self.dropped += 1

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[list[State]]:
        """Lend a connection."""
        yield self._states

    async def expire(self) -> None:
        """Replace the connections."""
        self.expired += 1

    async def read(self) -> tuple[int, str]:
        """Return the epoch and the server of the state that a read accepts."""

        async def query(states: object) -> State:
            assert states is self._states
            return self._states.pop(0)

        found = await self.reads.read(query)
        assert not self._states
        return found.revision.epoch, found.server

    @property
    def state(self) -> tuple[int, str]:
        """The epoch and the server of memory."""
        return self.lease.epoch, self.lease.server


@pytest.mark.parametrize("leased", [True, False])
@pytest.mark.parametrize(("epoch", "server"), [(5, "here"), (6, "here"), (5, ""), (6, "")])
async def test_a_state_that_is_not_older_is_accepted(epoch: int, server: str, *, leased: bool) -> None:
    """Of the same server, or of any while memory has no state yet."""
    memory = Memory((epoch, "here"), leased=leased, server=server)
    assert await memory.read() == (epoch, "here")
    assert (memory.lease.doubted, memory.lease.valid()) == (False, leased)
    assert (memory.dropped, memory.expired, memory.state) == (0, 0, (5, server))


async def test_an_older_state_is_never_accepted() -> None:
    """It puts the lease in doubt; memory is dropped, and the connections are replaced."""
    memory = Memory((4, "here"), (4, "here"))
    with pytest.raises(UnavailableError):
        await memory.read()
    assert (memory.lease.doubted, memory.lease.valid()) == (True, False)
    assert (memory.dropped, memory.expired, memory.state) == (2, 2, (5, "here"))


@pytest.mark.parametrize("server", ["here", "there"])
async def test_an_older_state_is_not_accepted_without_a_lease_either(server: str) -> None:
    """Whatever server it is of: another one may lack changes."""
    memory = Memory((4, server), (4, server), leased=False)
    with pytest.raises(UnavailableError):
        await memory.read()
    assert memory.state == (5, "here")


async def test_the_query_is_sent_again_on_another_connection() -> None:
    """The first one may have led to a former server."""
    memory = Memory((4, "there"), (5, "here"))
    assert await memory.read() == (5, "here")
    assert memory.lease.doubted
    assert (memory.dropped, memory.expired) == (1, 1)


async def test_another_server_is_accepted_once_the_lease_has_ended() -> None:
    """And not before that. From then on, reads are compared with its state."""
    memory = Memory((6, "there"), (6, "there"))
    assert await memory.read() == (6, "there")
    assert (memory.dropped, memory.expired, memory.state) == (2, 2, (6, "there"))
    memory = Memory((5, "there"), leased=False)
    assert await memory.read() == (5, "there")
    assert memory.lease.doubted
    assert (memory.dropped, memory.expired, memory.state) == (1, 1, (5, "there"))


async def test_a_read_is_compared_with_the_state_of_its_sending() -> None:
    """A change that is applied while it is under way does not make it too old."""
    memory = Memory((5, "here"))

    async def query(_: object) -> State:
        memory.lease.advance(Revision(6, 6))
        return State(Revision(5, 5), "here")

    assert (await memory.reads.read(query)).revision.epoch == 5
    assert memory.lease.valid()


async def test_memory_that_has_nothing_to_drop_is_left_alone() -> None:
    """A reader that is not connected yet."""
    memory = Memory((6, "there"), leased=False)
    memory.reads.on_doubt = None
    assert await memory.read() == (6, "there")
    assert memory.dropped == 0
