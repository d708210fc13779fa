"""A client in a separate process, so that its work on large messages does not count for the process under test.

`python -m tests.support.raw_client ADDRESS TOKEN` reads lines `METHOD FILE` from its standard input. For each
it calls the method with the file's bytes, and prints the status code and the number of bytes in the responses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc


def main(address: str, token: str) -> None:
    """Make calls until the input ends."""
    metadata = (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        for line in sys.stdin:
            method, path = line.split()
            call: Any = channel.unary_stream(f"/skilder.keys.v1.{method}")
            try:
                responses = call(Path(path).read_bytes(), metadata=metadata, timeout=120)
                reported = f"OK {sum(map(len, responses))}"
            except grpc.RpcError as error:
                reported = f"{error.code().name} 0"
            sys.stdout.write(f"{reported}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
