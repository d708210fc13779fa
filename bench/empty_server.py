"""An empty grpcio asyncio method that returns as many bytes as Authorize does: what the framework costs alone.

`python -m bench.empty_server FILE` prints its address, and returns the bytes of FILE to every Authorize.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc


async def main(body: bytes) -> None:
    """Serve until it is killed."""

    async def empty(_request: bytes, _context: object) -> bytes:
        return body

    handler = grpc.method_handlers_generic_handler(
        "skilder.keys.v1.AuthorizationService", {"Authorize": grpc.unary_unary_rpc_method_handler(empty)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes()))
