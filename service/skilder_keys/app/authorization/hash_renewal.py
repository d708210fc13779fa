"""Renew the hashes of secrets that were made with other parameters, in the background."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import credentials
from skilder_keys.storage.credentials import RenewedHash

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.storage.database import Database

_SECONDS = 1.0


class HashRenewal:
    """Every second it renews the hashes of tokens that were verified since, at most `verifier.MAX_OUTDATED`.

    So it takes a few hundredths of a core, whatever the number of keys. The hash of a further key remains valid, and is
    renewed after another first sight.
    """

    def __init__(self, database: Database, verifier: Verifier, log: FilteringBoundLogger) -> None:
        self._database = database
        self._verifier = verifier
        self._log = log

    async def run(self) -> None:
        """Renew hashes every second, until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                # The old hashes remain valid, so an outage of the database does no harm.
                with suppress(UnavailableError):
                    await self.renew()
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                self._log.error("hashes not renewed", exc_info=error)

    async def renew(self) -> None:
        """Renew the hashes of the tokens that the verifier noted.

        Raises:
            UnavailableError: The database does not take the new hashes now.
        """
        outdated = self._verifier.take_outdated()
        hashes = {
            token.key_id: RenewedHash(token.key_id, old, await self._verifier.hash(token.secret))
            for old, token in outdated.items()
        }
        if not hashes:
            return
        async with self._database.transaction() as connection:
            renewed = await credentials.renew_hashes(connection, hashes.values())
        for key_id in renewed:
            old, new = hashes[key_id].old, hashes[key_id].new
            token = outdated[old]
            self._verifier.remember(token, self._verifier.digest(token), new)
