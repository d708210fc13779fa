"""The queries of a run: tokens are authorized over many connections, and every begin and end of a call is recorded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import grpc

from faults.history import SOURCES, Authorize, Denied, Failed, Granted, now
from faults.plan import TOOLS
from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.service import TOKENS, Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from faults.history import Outcome, Recorder

ASK_SECONDS = 3.0
_WITH_VERSIONS = 0.3
_IN_BATCHES = 0.2
_IN_PARTS = 0.1

_SERVICE = (("authorization", f"Bearer {TOKENS['service']}"),)
_OPTIONS = [
    # A separate connection for each channel: channels to one address would share one, and so one worker.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 400),
    ("grpc.min_reconnect_backoff_ms", 1_000),
]


class Line:
    """A connection to a server. Linux chooses its worker, which can change."""

    def __init__(self, server: str, address: str) -> None:
        self.server = server
        self.channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.client = Client(self.channel)


@dataclass(eq=False)
class Key:
    """A key of the run.

    Attributes:
        name: The run's name for the key, which is also its request_id and, if it is no successor, its description.
        subject: Whose reach the key has: a user's, or EVERYBODY's.
        tokens: The token that each attempt returned, by the attempt's number, and a forged one.
        attempts: How many attempts to issue the key were made.
        predecessor: The key that it follows by rotation; None for a key that was issued.
        grace: How long the predecessor works beside it, in milliseconds.
        batch: Its label `batch`, or empty.
        version: Its version as far as it is known, which UpdateKey expects.
    """

    name: str
    workspace: str
    subject: str
    predecessor: Key | None = None
    grace: int = 0
    batch: str = ""
    id: str = ""
    version: int = 0
    attempts: int = 0
    # Tokens must not appear in the output of a failing test.
    tokens: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def token(self) -> int:
        """The number of the newest token."""
        return max(self.tokens)


class Query(NamedTuple):
    """A token to authorize, by its number, used from an address; with a tool, for that tool only."""

    key: Key
    token: int
    tool: str = ""
    source: str = ""


class Asking:
    """Authorizes tokens over any of many connections, and records that."""

    def __init__(self, addresses: Mapping[str, str], recorder: Recorder, dice: Random, lines: int) -> None:
        """Make clients of these servers, given as name and address, with this many connections to each."""
        self.recorder = recorder
        self.dice = dice
        self._versions: dict[str, frozenset[str]] = {}
        self._held: dict[tuple[str, str], str] = {}
        self.lines = [Line(server, address) for server, address in addresses.items() for _ in range(lines)]

    def of(self, *servers: str) -> list[Line]:
        """Return the connections to some servers."""
        return [line for line in self.lines if line.server in servers]

    async def ask(self, query: Query, line: Line | None = None, *, last: bool = False) -> Outcome:
        """Authorize a token from any address, by default over any connection."""
        query, request = self._request(query)
        chosen = line or self.dice.choice(self.lines)
        begin = now()
        try:
            if not query.tool and self.dice.random() < _IN_PARTS:
                outcome: Outcome = await self._read(query, request, chosen)
            else:
                response = await chosen.client.authorization.Authorize(request, timeout=ASK_SECONDS, metadata=_SERVICE)
                outcome = self._outcome(query, request, response)
        except grpc.aio.AioRpcError as error:
            outcome = Failed(error.code().name)
        self._note([query], [outcome], begin, chosen, last=last)
        return outcome

    async def _read(self, query: Query, request: pb.AuthorizeRequest, line: Line) -> Outcome:
        """Read what a token reaches."""
        tool_set = pb.ToolSet()
        read = pb.ReadToolSetRequest(request=request)
        async for part in line.client.authorization.ReadToolSet(read, timeout=ASK_SECONDS, metadata=_SERVICE):
            if part.HasField("denied"):
                return self._outcome(query, request, pb.AuthorizeResponse(denied=part.denied))
            assert tool_set.version in ("", part.tool_set.version), "all parts are of one tool set"
            tool_set.version = part.tool_set.version
            tool_set.tools.extend(part.tool_set.tools)
        return self._reached(query, tool_set)

    async def ask_batch(self, queries: Sequence[Query], line: Line | None = None) -> None:
        """Authorize many tokens from any addresses in one call."""
        queries, requests = zip(*map(self._request, queries), strict=True)
        chosen = line or self.dice.choice(self.lines)
        begin = now()
        try:
            batch = await chosen.client.authorization.BatchAuthorize(
                pb.BatchAuthorizeRequest(requests=requests), timeout=ASK_SECONDS, metadata=_SERVICE
            )
        except grpc.aio.AioRpcError as error:
            outcomes: list[Outcome] = [Failed(error.code().name)] * len(queries)
        else:
            assert len(batch.responses) == len(queries), "a batch has a decision for each request"
            outcomes = [
                self._outcome(query, request, response, batch.tool_sets)
                for query, request, response in zip(queries, requests, batch.responses, strict=True)
            ]
        self._note(queries, outcomes, begin, chosen)

    async def ask_all(self, key: Key, lines: Sequence[Line] | None = None, token: int | None = None) -> None:
        """Authorize a token over every connection at once, over some of them in a batch."""
        query = Query(key, key.token if token is None else token)
        await asyncio.gather(
            *(
                self.ask_batch([query, query._replace(tool=self.dice.choice(TOOLS))], line)
                if self.dice.random() < _IN_BATCHES
                else self.ask(query, line)
                for line in lines or self.lines
            )
        )

    def _request(self, query: Query) -> tuple[Query, pb.AuthorizeRequest]:
        """Return a query from an address, and its request, sometimes with an earlier tool set version of such a key."""
        query = query._replace(source=self.dice.choice(SOURCES))
        key, number, tool, source = query
        request = pb.AuthorizeRequest(token=key.tokens[number], source_ip=source)
        if tool:
            request.tool_id = tool
        elif self.dice.random() < _WITH_VERSIONS:
            request.tool_set_version = self._held.get((key.workspace, key.subject), "")
        return query, request

    def _outcome(
        self,
        query: Query,
        request: pb.AuthorizeRequest,
        response: pb.AuthorizeResponse,
        shared: Sequence[pb.ToolSet] = (),
    ) -> Outcome:
        if response.HasField("denied"):
            return Denied(pb.DenialReason.Name(response.denied.reason).removeprefix("DENIAL_REASON_"))
        granted = response.granted
        reach = granted.WhichOneof("reach")
        if reach == "tool":
            return Granted(frozenset({granted.tool.tool.id}))
        if reach == "tool_set_version" and granted.tool_set_version == request.tool_set_version:
            # A tool set version that never existed acts as none.
            return Granted(self._versions.get(request.tool_set_version, frozenset()))
        reported = next((each for each in shared if each.version == granted.tool_set_version), granted.tool_set)
        return self._reached(query, reported)

    def _reached(self, query: Query, reported: pb.ToolSet) -> Granted:
        tools = frozenset(tool.id for tool in reported.tools)
        self._versions[reported.version] = tools
        self._held[query.key.workspace, query.key.subject] = reported.version
        return Granted(tools)

    def _note(
        self, queries: Sequence[Query], outcomes: Sequence[Outcome], begin: int, line: Line, *, last: bool = False
    ) -> None:
        end = now()
        for (key, token, tool, source), outcome in zip(queries, outcomes, strict=True):
            self.recorder.authorizations.append(
                Authorize(
                    key=key.name,
                    token=token,
                    tool=tool,
                    source=source,
                    begin=begin,
                    end=end,
                    outcome=outcome,
                    via=line.server,
                    last=last,
                )
            )
