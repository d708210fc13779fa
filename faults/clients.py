"""The clients of a run: many connections to all servers. Every begin and end of a call is recorded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from faults.history import (
    EVERYBODY,
    OK,
    Apply,
    Authorize,
    Denied,
    Failed,
    Granted,
    Issue,
    Recorder,
    Revoke,
    Rotate,
    now,
)
from faults.plan import TOOLS
from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import catalog_service_pb2, key_service_pb2
from skilder.keys.v1.key_pb2 import KEY_LIMIT_HATS, KEY_STATE_REVOKED, KEY_TYPE_USER, KEY_TYPE_WORKSPACE
from tests.support.service import TOKENS, Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from google.protobuf.message import Message

    from faults.history import Change, Outcome
    from faults.plan import Plan

ASK_SECONDS = 3.0
CHANGE_SECONDS = 8.0
_PATIENCE = 60.0
_BY_TOKEN = 0.3
"""The share of keys that are revoked by token instead of id, where both are possible."""
_WITH_VERSIONS = 0.3
_IN_BATCHES = 0.2
_IN_PARTS = 0.1

_OPERATOR = (("authorization", f"Bearer {TOKENS['operator']}"),)
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
    """

    name: str
    workspace: str
    subject: str
    predecessor: Key | None = None
    grace: int = 0
    id: str = ""
    attempts: int = 0
    # Tokens must not appear in the output of a failing test.
    tokens: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def token(self) -> int:
        """The number of the newest token."""
        return max(self.tokens)


class Query(NamedTuple):
    """A token to authorize, by its number; with a tool, for that tool only."""

    key: Key
    token: int
    tool: str = ""


class Clients:
    """Makes calls over any of many connections, and records them."""

    def __init__(self, addresses: Mapping[str, str], recorder: Recorder, dice: Random, lines: int) -> None:
        """Make clients of these servers, given as name and address, with this many connections to each."""
        self._recorder = recorder
        self._dice = dice
        self._versions: dict[str, frozenset[str]] = {}
        self._held: dict[tuple[str, str], str] = {}
        self.lines = [Line(server, address) for server, address in addresses.items() for _ in range(lines)]

    async def close(self) -> None:
        """Close all connections. Do not call this while calls are running."""
        await asyncio.gather(*(line.channel.close() for line in self.lines))

    async def until_served(self) -> None:
        """Wait until every connection works, and the database behind it."""
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*map(self._until_served, self.lines))

    def of(self, *servers: str) -> list[Line]:
        """Return the connections to some servers."""
        return [line for line in self.lines if line.server in servers]

    async def ask(self, query: Query, line: Line | None = None, *, last: bool = False) -> Outcome:
        """Authorize a token, by default over any connection."""
        request = self._request(query)
        chosen = line or self._dice.choice(self.lines)
        begin = now()
        try:
            if not query.tool and self._dice.random() < _IN_PARTS:
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
        """Authorize many tokens in one call."""
        requests = [self._request(query) for query in queries]
        chosen = line or self._dice.choice(self.lines)
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
                self.ask_batch([query, query._replace(tool=self._dice.choice(TOOLS))], line)
                if self._dice.random() < _IN_BATCHES
                else self.ask(query, line)
                for line in lines or self.lines
            )
        )

    async def issue(self, key: Key) -> str:
        """Try once to issue a key, or to renew its secret; return the status code."""
        key.attempts += 1
        attempt = key.attempts
        request = key_service_pb2.IssueKeyRequest(
            request_id=key.name,
            type=KEY_TYPE_WORKSPACE if key.subject == EVERYBODY else KEY_TYPE_USER,
            workspace_id=key.workspace,
            user_id="" if key.subject == EVERYBODY else key.subject,
            description=key.name,
            unlimited=[KEY_LIMIT_HATS],
        )
        change = Issue(key=key.name, attempt=attempt, workspace=key.workspace, subject=key.subject, begin=now())
        code, issued = await self._change(change, request)
        if code == OK:
            key.id = issued.key.id
            key.tokens[attempt] = issued.token
        return code

    async def rotate(self, successor: Key, predecessor: Key) -> str:
        """Try once to issue a key as the successor of another, or to renew its secret; return the status code."""
        successor.attempts += 1
        attempt = successor.attempts
        request = key_service_pb2.RotateKeyRequest(request_id=successor.name, key_id=predecessor.id)
        request.grace.FromMilliseconds(successor.grace)
        change = Rotate(
            key=successor.name,
            attempt=attempt,
            workspace=successor.workspace,
            subject=successor.subject,
            predecessor=predecessor.name,
            grace=successor.grace * 10**6,
            begin=now(),
        )
        code, rotated = await self._change(change, request)
        if code == OK:
            successor.id = rotated.key.id
            successor.tokens[attempt] = rotated.token
        return code

    async def revoke_family(self, keys: Sequence[Key]) -> str:
        """Try once to revoke the family of some keys, which are all of it or may still be made; return the code."""
        request = key_service_pb2.RevokeKeyRequest(key_id=keys[0].id, scope=key_service_pb2.REVOKE_SCOPE_FAMILY)
        first, *others = [Revoke(key=key.name, begin=now()) for key in keys]
        places = [self._recorder.begin(change) for change in others]
        code, _ = await self._change(first, request)
        for place in places:
            self._recorder.end(place, code)
        return code

    async def revoke(self, key: Key, line: Line | None = None) -> str:
        """Try once to revoke a key; return the status code."""
        request = key_service_pb2.RevokeKeyRequest(key_id=key.id)
        # By token only where no other attempt can have renewed it.
        if key.attempts == 1 and self._dice.random() < _BY_TOKEN:
            request.token = key.tokens[key.token]
        code, _ = await self._change(Revoke(key=key.name, begin=now()), request, line)
        return code

    async def apply(self, plan: Plan, version: int, expected: int, before: Plan | None = None) -> str:
        """Try once to bring a workspace to a version, from the expected one; return the status code.

        If the plan of the version before is given, send only the parts that differ.
        """
        request: Message
        if before is None:
            request = catalog_service_pb2.ApplyWorkspaceRequest(workspace=plan.message(), expected_version=expected)
        else:
            request = plan.since(before)
            request.expected_version = expected
        change = Apply(workspace=plan.id, version=version, reach=plan.reach(), begin=now())
        code, _ = await self._change(change, request)
        return code

    async def delete(self, workspace: str, version: int) -> str:
        """Try once to delete a workspace, which makes this version of it; return the status code."""
        request = catalog_service_pb2.DeleteWorkspaceRequest(workspace_id=workspace)
        code, _ = await self._change(Apply(workspace=workspace, version=version, reach=None, begin=now()), request)
        return code

    async def list_keys(self, workspace: str) -> dict[str, bool]:
        """Return whether each key of a workspace was not revoked, by id; retry until the list is complete."""
        found: dict[str, bool] = {}
        names: set[str] = set()
        request = key_service_pb2.ListKeysRequest(workspace_id=workspace, page_size=1000)
        while True:
            try:
                page = await self._any().client.keys.ListKeys(request, timeout=CHANGE_SECONDS, metadata=_OPERATOR)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
                continue
            for key in page.keys:
                if not key.predecessor_id:
                    assert key.description not in names, "a request_id issues one key"
                    names.add(key.description)
                found[key.id] = key.state != KEY_STATE_REVOKED
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def _any(self) -> Line:
        return self._dice.choice(self.lines)

    async def _until_served(self, line: Line) -> None:
        request = catalog_service_pb2.ListWorkspacesRequest(page_size=1)
        while True:
            try:
                await line.client.catalog.ListWorkspaces(request, timeout=1, metadata=_OPERATOR)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return

    async def _change(self, change: Change, request: Message, line: Line | None = None) -> tuple[str, Any]:
        client = (line or self._any()).client
        method = {
            key_service_pb2.IssueKeyRequest: client.keys.IssueKey,
            key_service_pb2.RotateKeyRequest: client.keys.RotateKey,
            key_service_pb2.RevokeKeyRequest: client.keys.RevokeKey,
            catalog_service_pb2.ApplyWorkspaceRequest: client.catalog.ApplyWorkspace,
            catalog_service_pb2.UpdateWorkspaceRequest: client.catalog.UpdateWorkspace,
            catalog_service_pb2.DeleteWorkspaceRequest: client.catalog.DeleteWorkspace,
        }[type(request)]
        place = self._recorder.begin(change)
        try:
            response = await method(request, timeout=CHANGE_SECONDS, metadata=_OPERATOR)
        except grpc.aio.AioRpcError as error:
            code: str = error.code().name
            self._recorder.end(place, code)
            return code, None
        self._recorder.end(place, OK)
        return OK, response

    def _request(self, query: Query) -> pb.AuthorizeRequest:
        """Return the request of a query, sometimes with an earlier tool set version of such a key."""
        key, number, tool = query
        request = pb.AuthorizeRequest(token=key.tokens[number])
        if tool:
            request.tool_id = tool
        elif self._dice.random() < _WITH_VERSIONS:
            request.tool_set_version = self._held.get((key.workspace, key.subject), "")
        return request

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
        for (key, token, tool), outcome in zip(queries, outcomes, strict=True):
            self._recorder.authorizations.append(
                Authorize(
                    key=key.name,
                    token=token,
                    tool=tool,
                    begin=begin,
                    end=end,
                    outcome=outcome,
                    via=line.server,
                    last=last,
                )
            )
