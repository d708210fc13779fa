"""The fast path: a call that can be granted from memory gets its response without a task, time limit or log line.

docs/design/fast-path.md has its benefit and its cost. To remove it, remove this file, `transports/envoy/fast_call.py`
and their uses; then only the time of a call changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder_keys.rpc.call_metrics import caller_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.domain.access import Caller
    from skilder_keys.rpc.admission import Admission
    from skilder_keys.rpc.decoding import Decoder

    Respond = Callable[[Any, Caller], bytes | None]


class FastPath:
    """The fast path of a method, for callers and keys that this process remembers.

    A transport may try it before the pipeline. If it does not respond, nothing was changed and the pipeline serves the
    call. If it responds, the call is counted, but not logged. The transport limits the wait for the message.

    Attributes:
        max_bytes: The longest message that `respond` accepts.
    """

    def __init__(self, admission: Admission, decoder: Decoder[Any], respond: Respond, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._admission = admission
        self._decoder = decoder
        self._respond = respond
        self._counts: dict[str, Callable[[float], None]] = {}  # by callers

    def caller(self, credentials: str) -> Caller | None:
        """Return the caller with this metadata `authorization`; None if the pipeline has to serve the call."""
        return self._admission.admit_remembered(credentials)

    def respond(self, message: bytes, caller: Caller, began: float) -> bytes | None:
        """Return the response to a message; None if the pipeline has to serve the call.

        `began` is the time of `perf_counter` at which the call began.
        """
        try:
            response = self._respond(self._decoder.decode(message), caller)
        except Exception:  # noqa: BLE001 - the pipeline gets the same error, and reports it
            return None
        if response is not None:
            count = self._counts.get(caller.name)
            if count is None:
                count = self._counts[caller.name] = self._admission.latency("OK", caller_label(caller)).note_since
            count(began)
        return response
