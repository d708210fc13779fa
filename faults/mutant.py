"""A worker with a mistake in it, which the history check must find: `python -m faults.mutant MUTATION NUMBER`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.app.authorization.cache import KeyCache, Load
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.storage.database import Connection


def _keep_what_was_overtaken() -> None:
    """A load is kept though a change overtook it."""
    from skilder_keys.app.authorization.cache import KeyCache  # noqa: PLC0415 - each mutation imports what it changes

    def invalidate(_self: KeyCache, _touched: Callable[[Load], bool]) -> None:
        pass

    KeyCache._invalidate = invalidate  # type: ignore[method-assign, assignment]  # noqa: SLF001 - that is the mistake


def _never_look_at_the_clock() -> None:
    """Memory answers for as long as nobody says that it must not."""
    from skilder_keys.app.fence.lease import Lease  # noqa: PLC0415 - each mutation imports what it changes

    def valid(self: Lease) -> bool:
        return self._end > -math.inf

    Lease.valid = valid  # type: ignore[method-assign]


def _wait_for_nobody() -> None:
    """A change returns as soon as it is committed."""
    from skilder_keys.app.fence.writer import Writer  # noqa: PLC0415 - each mutation imports what it changes

    async def settle(_self: Writer) -> None:
        pass

    Writer.settle = settle  # type: ignore[method-assign, assignment]


def _wait_for_no_lease() -> None:
    """A reader that has not applied a change is evicted at once."""
    from skilder_keys.storage import fence  # noqa: PLC0415 - each mutation imports what it changes

    laggards = fence.laggards

    async def without_leases(connection: Connection, epoch: int) -> list[fence.Laggard]:
        return [fence.Laggard(each.id, 0.0) for each in await laggards(connection, epoch)]

    fence.laggards = without_leases


def _remember_from_before() -> None:
    """A reader that was evicted registers anew, and keeps what it knew."""
    from skilder_keys.app.authorization.cache import KeyCache  # noqa: PLC0415 - each mutation imports what it changes

    def drop_all(_self: KeyCache) -> None:
        pass

    KeyCache.drop_all = drop_all  # type: ignore[method-assign, assignment]


def _compare_epochs_only() -> None:
    """A reader is in step with whatever history counts as far as it does."""
    from skilder_keys.domain.revision import Revision  # noqa: PLC0415 - each mutation imports what it changes
    from skilder_keys.storage import fence  # noqa: PLC0415 - each mutation imports what it changes

    fence._IS_KNOWN = "(fence.epoch >= {epoch} AND {tag}::bigint IS NOT NULL)"  # noqa: SLF001 - that is the mistake
    Revision.__eq__ = lambda one, other: bool(one[0] == other[0])  # type: ignore[method-assign, index]


def _know_every_reader() -> None:
    """Nobody waits for readers that a restored database does not know."""
    from skilder_keys.app.fence.new_server import NewServer  # noqa: PLC0415 - each mutation imports what it changes

    def seconds_left(_self: NewServer, _state: object) -> float:
        return 0.0

    NewServer.seconds_left = seconds_left  # type: ignore[method-assign, assignment]


MUTATIONS: dict[str, Callable[[], None]] = {
    "no-invalidation": _keep_what_was_overtaken,
    "no-lease-check": _never_look_at_the_clock,
    "no-writer-wait": _wait_for_nobody,
    "no-lease-wait": _wait_for_no_lease,
    "no-clean-start": _remember_from_before,
    "no-tag": _compare_epochs_only,
    "no-unknown-readers": _know_every_reader,
}


def main(mutation: str, descriptor: int) -> None:
    """Work as a worker does, but for one mistake."""
    MUTATIONS[mutation]()
    from skilder_keys.worker.__main__ import main as work  # noqa: PLC0415 - after the code is changed

    work(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
