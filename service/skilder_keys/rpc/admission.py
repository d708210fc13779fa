"""Authentication, the check of the ability, and the count of calls: the same for the pipeline and the fast path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.auth.callers import Callers
    from skilder_keys.domain.access import Ability, Caller
    from skilder_keys.rpc.call_metrics import CallMetrics, Latency
    from skilder_keys.rpc.context import Context


class Admission:
    """Admits the calls of one method and counts them."""

    def __init__(self, method: str, ability: Ability, callers: Callers, calls: CallMetrics) -> None:
        """Make the admission of a method.

        Args:
            method: The service and the method, e.g. `KeyService/IssueKey`.
            ability: The ability that the caller's role must have.
            callers: The callers of the service.
            calls: The metrics to which the calls are added.
        """
        self.method = method
        self._ability = ability
        self._callers = callers
        self._calls = calls
        self._succeeded: dict[str, Latency] = {}  # nearly all calls, by callers

    def admit_remembered(self, credentials: str | None) -> Caller | None:
        """Return the caller with this metadata `authorization`; None if it is not remembered, or not allowed."""
        caller = self._callers.remembered(credentials)
        return caller if caller is not None and caller.may(self._ability) else None

    async def admit(self, context: Context, notes: dict[str, str]) -> Caller:
        """Return the caller of a call, and put its name into the notes for the log.

        Raises:
            UnauthenticatedError: The caller is unknown.
            CallerNotAllowedError: The caller's role does not have the ability.
            UnavailableError: The caller sends a runtime key, and the database does not respond.
        """
        caller = self.admit_remembered(context.credentials()) or await self._callers.identify(context)
        notes["caller"] = caller.name
        caller.require(self._ability)
        return caller

    def latency(self, code: str, caller: str = "") -> Latency:
        """Return the histogram of a caller's calls that ended with a status code, which counts them."""
        if code != "OK":
            return self._calls.latency(self.method, code, caller)
        found = self._succeeded.get(caller)
        if found is None:
            found = self._succeeded[caller] = self._calls.latency(self.method, code, caller)
        return found
