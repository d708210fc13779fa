"""`python -m service.envoy NUMBER`: a worker, as `service.worker` is one, whose calls come in by Envoy."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from service import connections
from service.address import ListenError
from service.config import Settings
from service.envoy.process import EnvoyMissingError, become
from service.worker_start import failure, hold_signals

_LINE_BYTES = 2**20


def main(descriptor: int) -> None:
    """Reads what to serve, leaves it there to be read again, and becomes an Envoy that serves it."""
    hold_signals()
    connections.raise_file_limit()
    with socket.socket(fileno=descriptor) as connection:
        while (found := connection.recv(_LINE_BYTES, socket.MSG_PEEK)) and b"\n" not in found:
            pass  # the rest of it is on its way
        if not found:
            return  # the parent has gone already
        order = json.loads(found.partition(b"\n")[0])
        try:
            become(Settings.model_validate(order["settings"]), descriptor, Path(order["folder"]))
        except (EnvoyMissingError, ListenError) as error:
            connection.sendall(failure(error, str(error)))
            sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
