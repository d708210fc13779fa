"""`python -m skilder_keys.worker NUMBER` runs a worker. NUMBER is the descriptor of a Unix socket to its parent.

A worker is a new interpreter and not a fork. So it shares no state of gRPC with another process, and it reads the
current code, certificates and callers file. `ipc` describes the messages on the socket.
"""

from __future__ import annotations

import gc
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skilder_keys.envoy_settings import EnvoySettings
from skilder_keys.ipc import messages
from skilder_keys.ipc.signals import hold_signals
from skilder_keys.transports.connections import raise_file_limit
from skilder_keys.transports.listening import ListenError

if TYPE_CHECKING:
    from typing import Any

APPLICATION = "skilder_keys.worker.in_envoy:application"


def main(descriptor: int) -> None:
    """Serve until the parent sends a stop message or ends, or SIGTERM. A second SIGTERM ends the process at once."""
    hold_signals()
    raise_file_limit()
    with socket.socket(fileno=descriptor) as connection:
        first = messages.peek(connection)
        if first is None:
            return  # the parent has ended already
        if first["settings"].get("transport") == "envoy":
            _become_envoy(connection, first)
        # To load leaves no garbage, and the search for it takes a sixth of the time. `serve` turns it on again.
        gc.disable()
        # Import these late: Envoy starts its own interpreter, and this process would import them for nothing.
        import uvloop  # noqa: PLC0415

        from skilder_keys.transports.grpcio.frontend import GrpcioFrontend  # noqa: PLC0415
        from skilder_keys.worker.process import serve  # noqa: PLC0415

        # uvloop reduces the CPU time of a call by an eighth.
        sys.exit(uvloop.run(serve(connection, GrpcioFrontend(reuse_port=True))))


def _become_envoy(connection: socket.socket, first: dict[str, Any]) -> None:
    """Replace this process by an Envoy that runs `in_envoy`, which reads the first message again."""
    from skilder_keys.transports.envoy.process import EnvoyMissingError, become  # noqa: PLC0415 - optional

    try:
        become(EnvoySettings.of(first["settings"]), connection.fileno(), Path(first["folder"]), APPLICATION)
    except (EnvoyMissingError, ListenError) as error:
        connection.sendall(messages.encode_failure(error, str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
