"""A client that revokes keys one after another, in a process of its own: what it waits for is the service alone.

It reads from standard input where to call, as whom, and which keys, and writes how long each call took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Revoking:
    """What to revoke.

    Attributes:
        address: The address of the service.
        token: The caller's token.
        key_ids: The keys.
        pause: The seconds from one call to the next.
    """

    address: str
    token: str
    key_ids: Sequence[str]
    pause: float


async def revoke(what: Revoking) -> list[float]:
    """Run the client, and return how many seconds each call took."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.revoking", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate(json.dumps(asdict(what)).encode())
    if process.returncode:
        raise RuntimeError("the client that revokes keys failed")
    found: list[float] = json.loads(written)
    return found


def _main() -> None:
    what = Revoking(**json.load(sys.stdin))
    took = []
    with Caller(what.address, what.token) as caller:
        due = time.monotonic()
        for key_id in what.key_ids:
            due += what.pause
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            caller.revoke(key_id)
            took.append(time.monotonic() - began)
    json.dump(took, sys.stdout)


if __name__ == "__main__":
    _main()
