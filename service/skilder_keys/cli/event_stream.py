"""Follow events across lost connections, restarts of the service, and the end of each call."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import grpc

from skilder_keys.cli.exits import say
from skilder_keys.cli.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder.keys.v1 import audit_service_pb2 as pb

_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
_LONGEST_CALL = 86_400.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


def responses(stub: Any, request: pb.FollowEventsRequest) -> Iterator[pb.FollowEventsResponse]:  # noqa: ANN401 - stubs have no types
    """Yield the responses with events, for as long as the program runs.

    If a call fails after its first response, go on with the last cursor. Sets it in the request.

    Raises:
        RpcError: The first call failed, or another one in a way that does not pass.
    """
    pause, has_begun, is_lost = _FIRST_PAUSE, False, False
    while True:
        try:
            for response in stub.FollowEvents(request, timeout=_LONGEST_CALL):
                request.cursor = response.cursor
                if is_lost:
                    say("Connected again.")
                pause, has_begun, is_lost = _FIRST_PAUSE, True, False
                if response.events:
                    yield response
        except grpc.RpcError as error:
            if not has_begun or error.code() not in _LOST:
                raise
            if pause > _FIRST_PAUSE and not is_lost:  # the service is more than restarted
                say(visible(f"The connection is lost; trying again: {error.details()}", sys.stderr))
                is_lost = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
