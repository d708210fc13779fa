"""All workers are restarted while many keys are in use: each call is granted, or asked to come again later."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id
from tests.support.lengths import by_form
from tests.support.process import serving_process
from tests.support.rows import insert_key
from tests.support.service import Refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workers import OWN_CONNECTION, issued, operator_metadata

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

KEYS = by_form(75, 150)
CHANNELS = 2
CALLS = 16
"""Calls at the same time on each channel."""


class InUse:
    """Clients that ask about random keys all the time, by single calls and by batches.

    Attributes:
        other: The calls that were neither granted nor BUSY, by what happened.
        granted: The tokens that were granted since this was last cleared.
    """

    def __init__(self, tokens: list[str], metadata: Any) -> None:
        self.other: Counter[str] = Counter()
        self.granted: set[str] = set()
        self._tokens = tokens
        self._metadata = metadata

    async def keep_asking(self, address: str) -> None:
        """Ask until cancelled."""
        async with grpc.aio.insecure_channel(address, options=[OWN_CONNECTION]) as channel:
            stub: Any = AuthorizationServiceStub(channel)
            async with asyncio.TaskGroup() as group:
                for number in range(CALLS):
                    group.create_task(self._ask(stub, batches=number == 0))

    async def _ask(self, stub: Any, *, batches: bool) -> None:
        while True:
            tokens = random.sample(self._tokens, 50 if batches else 1)
            queries = [pb.AuthorizeRequest(token=token) for token in tokens]
            try:
                if batches:
                    batch = pb.BatchAuthorizeRequest(requests=queries)
                    found = list((await stub.BatchAuthorize(batch, metadata=self._metadata)).responses)
                else:
                    found = [await stub.Authorize(queries[0], metadata=self._metadata)]
            except grpc.aio.AioRpcError as error:
                if (error.code(), Refusal.of(error).reason) != (grpc.StatusCode.UNAVAILABLE, "BUSY"):
                    self.other[f"{error.code().name}: {error.details()}"] += 1
                continue
            for token, response in zip(tokens, found, strict=True):
                if response.HasField("granted"):
                    self.granted.add(token)
                else:
                    self.other[f"denied: {response.denied.message}"] += 1


@GRPCIO_IF_SHORT
@pytest.mark.long
async def test_a_restart_of_all_workers_under_load_denies_nobody(
    transport: str, database_url: str, sql: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    """Until each key is known again; nothing waits for a clock, and no call ends in another way."""
    settings = {
        "SKILDER_KEYS_WORKERS": "2",
        "SKILDER_KEYS_DATABASE_URL": database_url,
        # An old worker serves its connections until they are that old, in seconds.
        "SKILDER_KEYS_MAX_CONNECTION_AGE": "1",
    }
    with serving_process(tmp_path, transport=transport, **settings) as server:
        await asyncio.to_thread(lambda: server.address)
        metadata = operator_metadata(server, tmp_path)
        async with grpc.aio.insecure_channel(server.address) as channel:
            await issued(channel, metadata)
        hasher = SecretHasher(HashParameters())
        tokens = [Token.mint(KeyType.WORKSPACE, new_key_id()) for _ in range(KEYS)]
        for token in tokens:
            await insert_key(sql, id=token.key_id, secret_hash=hasher.hash(token.secret))
        in_use = InUse([token.reveal() for token in tokens], metadata)
        load = [asyncio.create_task(in_use.keep_asking(server.address)) for _ in range(CHANNELS)]
        try:
            await until_all_granted(in_use)
            server.process.send_signal(signal.SIGHUP)
            for index in range(2):
                await asyncio.to_thread(server.wait_for, "worker replaced", worker=index)
            await asyncio.to_thread(server.wait_for, "reloaded")
            await until_all_granted(in_use)
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
        assert in_use.other == {}


async def until_all_granted(in_use: InUse) -> None:
    """Wait until each key was granted from now on."""
    in_use.granted.clear()
    async with asyncio.timeout(120):
        while len(in_use.granted) < KEYS:
            await asyncio.sleep(0.01)
