"""Fill an empty memory with the keys that are in use, so that their next calls are no first sights."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.domain.errors import UnavailableError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.authorization.key_cache import KeyCache
    from skilder_keys.app.authorization.key_loader import KeyLoader
    from skilder_keys.app.authorization.proofs import Proofs
    from skilder_keys.app.fence.lease import Lease

_LOOK_SECONDS = 0.1
_CHUNK = 100
"""How many keys are loaded at a time: these take a few milliseconds of the event loop."""
_PAUSE_SECONDS = 0.002


class WarmUp:
    """Loads the keys whose tokens the workers of this server have verified, whenever memory is empty.

    That is after a start, and after memory was dropped. It ends when the memory for keys is full.
    """

    def __init__(
        self, proofs: Proofs, loader: KeyLoader, keys: KeyCache, lease: Lease, log: FilteringBoundLogger
    ) -> None:
        """Make it.

        Args:
            proofs: Has the keys.
            loader: Loads them.
            keys: Gets them.
            lease: The lease under which they may be used.
            log: The log.
        """
        self._proofs = proofs
        self._loader = loader
        self._keys = keys
        self._lease = lease
        self._log = log

    async def run(self) -> NoReturn:
        """Look whether memory was dropped, and load the keys, until cancelled."""
        drops = -1
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if drops != self._keys.drops and self._lease.valid():
                drops = self._keys.drops
                try:
                    await self.load()
                except UnavailableError:
                    pass  # their calls load them
                except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                    self._log.error("keys in use not loaded", exc_info=error)

    async def load(self) -> None:
        """Load the keys, a few at a time, while the lease is valid and there is room.

        Raises:
            UnavailableError: They cannot be loaded now.
        """
        remaining = self._proofs.key_ids()
        while key_ids := list(islice(remaining, _CHUNK)):
            if self._keys.is_full or not self._lease.valid():
                return
            await self._loader.load_ahead(key_ids)
            await asyncio.sleep(_PAUSE_SECONDS)
