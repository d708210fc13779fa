"""`python -m skilder_keys.worker NUMBER`: a worker. NUMBER is that of an open Unix socket to its parent, see `ipc`.

It is an interpreter of its own and not a fork, so that it shares no state of gRPC with anybody, and reads code,
certificates and callers as they are now.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skilder_keys.config import Settings
from skilder_keys.ipc import messages
from skilder_keys.ipc.signals import hold_signals
from skilder_keys.transports.connections import raise_file_limit
from skilder_keys.transports.listening import ListenError

if TYPE_CHECKING:
    from typing import Any

APPLICATION = "skilder_keys.worker.in_envoy:application"


def main(descriptor: int) -> None:
    """Serve until the parent says stop, or is gone, or SIGTERM comes; a second SIGTERM ends the process at once."""
    hold_signals()
    raise_file_limit()
    with socket.socket(fileno=descriptor) as connection:
        order = messages.peek(connection)
        if order is None:
            return  # the parent has gone already
        settings = Settings.model_validate(order["settings"])
        if settings.transport == "envoy":
            _become_envoy(settings, connection, order)
        # Not before: Envoy starts an interpreter of its own, for which all this would be loaded in vain.
        import uvloop  # noqa: PLC0415

        from skilder_keys.transports.grpcio.frontend import GrpcioFrontend  # noqa: PLC0415
        from skilder_keys.worker.process import serve  # noqa: PLC0415

        # uvloop takes an eighth off the CPU time of a call.
        sys.exit(uvloop.run(serve(connection, GrpcioFrontend(reuse_port=True))))


def _become_envoy(settings: Settings, connection: socket.socket, order: dict[str, Any]) -> None:
    """Replace this process by an Envoy that runs `in_envoy`; it reads the first message again."""
    from skilder_keys.transports.envoy.process import EnvoyMissingError, become  # noqa: PLC0415 - optional

    try:
        become(settings, connection.fileno(), Path(order["folder"]), APPLICATION)
    except (EnvoyMissingError, ListenError) as error:
        connection.sendall(messages.encode_failure(error, str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
