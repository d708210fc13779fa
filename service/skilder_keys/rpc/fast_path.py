"""The fast path: a call that memory can grant is answered at once, without a task, a time limit and a log line.

See docs/design/fast-path.md for what it buys. To remove it, remove this file, `transports/envoy/fast_call.py` and their
uses: nothing is different then but the time that a call takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.domain.access import Caller
    from skilder_keys.rpc.admission import Admission
    from skilder_keys.rpc.decoding import Decoder

    Respond = Callable[[Any, Caller], bytes | None]


class FastPath:
    """A method for callers and keys that this process knows, when all is well.

    A transport may try it before it has the pipeline serve the call. A call that it does not answer is as if it had not
    been tried; a call that it answers is counted, and not logged. The transport bounds the wait for the message.

    Attributes:
        max_bytes: The longest message that `respond` takes.
    """

    def __init__(self, admission: Admission, decoder: Decoder[Any], respond: Respond, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._admission = admission
        self._decoder = decoder
        self._respond = respond

    def caller(self, credentials: str) -> Caller | None:
        """Return who sends this metadata `authorization`; None where the pipeline has to find out."""
        return self._admission.admit_remembered(credentials)

    def respond(self, message: bytes, caller: Caller) -> bytes | None:
        """Return the response to a message, or None where the pipeline has to serve the call."""
        try:
            response = self._respond(self._decoder.decode(message), caller)
        except Exception:  # noqa: BLE001 - whatever it is, the pipeline meets it too, and tells
            return None
        if response is not None:
            self._admission.count("OK")
        return response
