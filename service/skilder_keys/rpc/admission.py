"""The step that every call passes first and last, in the pipeline and on the fast path: caller, ability, count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from skilder_keys.auth.callers import Callers
    from skilder_keys.domain.access import Ability, Caller
    from skilder_keys.rpc.context import Context


class Admission:
    """Admits the calls of one method and counts them."""

    def __init__(
        self, method: str, ability: Ability, callers: Callers, calls: MutableMapping[tuple[str, str], int]
    ) -> None:
        """Take the method's name, what its callers need, who they can be, and where calls are counted.

        Args:
            method: The service and the method, e.g. `KeyService/IssueKey`.
            ability: The ability that the caller's role must give.
            callers: The callers of the service.
            calls: The counts, by method and by the name of the status code.
        """
        self.method = method
        self._ability = ability
        self._callers = callers
        self._calls = calls

    def admit_remembered(self, credentials: str | None) -> Caller | None:
        """Return who sends this metadata `authorization`; None where that is not known at once, or is not allowed."""
        caller = self._callers.remembered(credentials)
        return caller if caller is not None and caller.may(self._ability) else None

    async def admit(self, context: Context, notes: dict[str, str]) -> Caller:
        """Return who makes a call, and note it for the log.

        Raises:
            UnauthenticatedError: The caller is not known.
            CallerNotAllowedError: The caller's role does not give the ability.
            UnavailableError: The caller shows a runtime key, and the database does not answer.
        """
        caller = self.admit_remembered(context.credentials()) or await self._callers.identify(context)
        notes["caller"] = caller.name
        caller.require(self._ability)
        return caller

    def count(self, code: str) -> None:
        """Count a call that ended with a status code."""
        self._calls[self.method, code] += 1
