"""Processes of a fleet without a server around them: all of the app, the fence and the cache."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.activity.counter import ActivityCounter
from skilder_keys.app.authorization.authorizer import Authorizer
from skilder_keys.app.authorization.first_sights import FirstSights
from skilder_keys.app.authorization.key_cache import KeyCache
from skilder_keys.app.authorization.key_loader import KeyLoader
from skilder_keys.app.authorization.memory import Memory
from skilder_keys.app.authorization.proofs import Proofs
from skilder_keys.app.authorization.query import AuthorizeQuery, Decision
from skilder_keys.app.authorization.snapshots import Snapshots
from skilder_keys.app.authorization.turns import Gates
from skilder_keys.app.authorization.usage import Usage
from skilder_keys.app.authorization.verifier import Verifier
from skilder_keys.app.authorization.warm_up import WarmUp
from skilder_keys.app.fence.lease import Lease
from skilder_keys.app.fence.reader import Reader
from skilder_keys.app.fence.reads import FencedReads
from skilder_keys.app.fence.writer import Writer
from skilder_keys.app.key_changes import KeyChanges
from skilder_keys.app.keys import Keys
from skilder_keys.app.workspaces import Workspaces
from skilder_keys.domain.access import Caller, CallerRole, Origin
from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.keys import KeyLimit, PreviousKeys
from skilder_keys.domain.paging import PageTokens
from skilder_keys.domain.token import KeyType
from skilder_keys.offload import Offload
from skilder_keys.rpc import convert_workspaces
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.support.clock import FakeClock
from tests.support.log import CapturedLog
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from skilder.keys.v1 import workspace_pb2
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.token import Token

ORIGIN = Origin(Caller("tests", CallerRole.OPERATOR), None, "tests")
BOOTTIME = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class CountedDatabase(Database):
    """A database that counts the connections it lends, except those of the fence."""

    lent = 0

    def connection(self) -> Any:
        """Count, then lend a connection."""
        self.lent += 1
        return super().connection()


class CountingHasher(SecretHasher):
    """A hasher that counts its argon2 checks."""

    def __init__(self, parameters: HashParameters = HashParameters(memory_kib=16)) -> None:  # noqa: B008 - frozen
        super().__init__(parameters)
        self.checks = 0

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Count, then verify."""
        self.checks += 1
        return super().verifies(token, secret_hash)


@dataclass
class Process:
    """One process of a fleet. Its reader follows the fence after `follow`.

    Attributes:
        usage_clock: The clock for uses only. A use is written again when this clock has moved by more than a minute.
        waits: How long each of its changes waited, in seconds.
    """

    database: CountedDatabase
    hasher: CountingHasher
    lease: Lease
    memory: Memory
    key_cache: KeyCache
    snapshots: Snapshots
    reader: Reader
    verifier: Verifier
    authorizer: Authorizer
    gates: Gates
    keys: Keys
    changes: KeyChanges
    workspaces: Workspaces
    writer: Writer
    log: CapturedLog
    usage: Usage
    warm_up: WarmUp
    usage_clock: FakeClock
    waits: list[float] = field(default_factory=list)
    following: asyncio.Task[Any] | None = None

    async def follow(self) -> None:
        """Start to follow the fence, and return once there is a new lease.

        A lease from before `freeze` is not enough, so it ends here: the reader drops memory before it has the new one.
        """
        self.lease.end()
        self.following = asyncio.create_task(self.reader.run())
        await until(self.lease.valid)

    async def freeze(self) -> None:
        """Stop following the fence without telling anybody, like a process that hangs."""
        if self.following is not None:
            self.following.cancel()
            with suppress(asyncio.CancelledError):
                await self.following
            self.following = None

    async def decide(self, query: AuthorizeQuery) -> Decision:
        """Decide as the service does: from memory where the cache knows the token."""
        return await self.authorizer.authorize(query)

    async def ask(self, token: str, tool_id: str | None = None, version: str = "") -> pb.AuthorizeResponse:
        """Authorize a token."""
        return pb.AuthorizeResponse.FromString((await self.decide(_query(token, tool_id, version))).body)

    async def outcome(self, token: str, tool_id: str | None = None, source_ip: str = "") -> str:
        """Authorize a token and return `granted`, or the reason why it is denied."""
        query = _query(token, tool_id)
        query.source_ip = source_ip
        decision = await self.decide(query)
        return "granted" if decision.denied is None else decision.denied.name

    async def issue(self, type_: KeyType = KeyType.WORKSPACE, **fields: Any) -> tuple[Key, str]:
        """Issue a key of `acme` and return it with its token."""
        request_id = fields.pop("request_id", "")
        defaults: dict[str, Any] = {
            "type": type_,
            "workspace_id": "acme",
            "user_id": None,
            "runtime_id": "runtime-1" if type_ is KeyType.RUNTIME else None,
            "description": "Slack Support Bot",
            "hat_ids": None,
            "previous_keys": PreviousKeys.KEEP if type_ is KeyType.RUNTIME else None,
            "unlimited": () if fields.get("hat_ids") is not None or type_ is KeyType.RUNTIME else (KeyLimit.HATS,),
        }
        issued = await self.keys.issue(KeySpec(**defaults | fields), request_id, ORIGIN)
        return issued.key, issued.token.reveal()

    async def revoke(self, key: Key) -> None:
        """Revoke a key."""
        await self.keys.revoke(str(key.id), "", ORIGIN)

    async def apply(self, workspace: workspace_pb2.Workspace | None = None) -> int:
        """Apply a workspace, by default the small one, and return its version."""
        version, _ = await self.workspaces.apply(
            convert_workspaces.workspace(workspace or small_workspace()), None, ORIGIN
        )
        return version


@asynccontextmanager
async def process(
    database_url: str,
    *,
    clock: Callable[[], float] = BOOTTIME,
    lease: float = 2.0,
    capacity: int = 1000,
    snapshot_bytes: int = 2**24,
    hasher: CountingHasher | None = None,
    threads: int = 2,
    at_once: int = 100_000,
    max_waiting: int = 100_000,
    proofs: Proofs | None = None,
) -> AsyncIterator[Process]:
    """Run a process of the fleet that does not follow the fence yet."""
    # A long time limit, because a machine that runs tests may be busy.
    options = DatabaseOptions(database_url, statement_timeout=30, lock_timeout=30, acquire_timeout=30)
    database = await CountedDatabase.open(options)
    log, waits = CapturedLog(), list[float]()
    held, hasher, proofs = Lease(clock), hasher or CountingHasher(), proofs or Proofs.of_one_process(1000)
    fingerprint = proofs.fingerprint
    offload = Offload()
    reads = FencedReads(database, held)
    key_cache = KeyCache(held, fingerprint, capacity)
    snapshots = Snapshots(reads, held, offload, snapshot_bytes)
    memory = Memory(key_cache, snapshots)
    reads.on_doubt = memory.drop_all
    verifier = Verifier(hasher, proofs, threads=threads)
    usage_clock = FakeClock()
    usage = Usage(database, log.logger, usage_clock, 60)
    reader = Reader(database, memory, held, log.logger, clock, lease)
    writer, pages = Writer(database, clock, waits.append, reader.new_server), PageTokens(bytes(32))
    gates = Gates(*(FirstSights(BOOTTIME, max_waiting, at_once=at_once, longest_wait=3600) for _ in range(3)))
    loader = KeyLoader(database, reads, held, key_cache, snapshots, fingerprint, verifier, usage, gates)
    made = Process(
        database=database,
        hasher=hasher,
        lease=held,
        memory=memory,
        key_cache=key_cache,
        snapshots=snapshots,
        reader=reader,
        verifier=verifier,
        authorizer=Authorizer(memory, loader, usage, ActivityCounter(usage_clock, 0, 0), offload),
        gates=gates,
        keys=Keys(database, writer, verifier, pages),
        changes=KeyChanges(database, writer),
        workspaces=Workspaces(database, writer, convert_workspaces.workspace_bytes),
        writer=writer,
        log=log,
        usage=usage,
        warm_up=WarmUp(proofs, loader, key_cache, held, log.logger),
        usage_clock=usage_clock,
        waits=waits,
    )
    try:
        yield made
    finally:
        await made.freeze()
        await made.reader.close()
        verifier.close()
        offload.close()
        await database.close()


def _query(token: str, tool_id: str | None, version: str = "") -> AuthorizeQuery:
    return AuthorizeQuery(token, None if tool_id is None else ToolId(tool_id), version)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)
