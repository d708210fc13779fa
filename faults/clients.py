"""The clients of a run: many connections to all servers. Every begin and end of a call is recorded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from faults.history import EVERYBODY, OK, Apply, Issue, Limit, Revoke, Rotate, Suspend, now
from faults.queries import Asking
from skilder.keys.v1 import catalog_service_pb2, key_pb2, key_service_pb2
from skilder.keys.v1.key_pb2 import (
    KEY_LIMIT_HATS,
    KEY_LIMIT_NETWORKS,
    KEY_STATE_REVOKED,
    KEY_TYPE_USER,
    KEY_TYPE_WORKSPACE,
)
from tests.support.service import TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from faults.history import Change, Limits
    from faults.plan import Plan
    from faults.queries import Key, Line

CHANGE_SECONDS = 8.0
_PATIENCE = 60.0
_BY_TOKEN = 0.3
"""The share of keys that are revoked by token instead of id, where both are possible."""

_OPERATOR = (("authorization", f"Bearer {TOKENS['operator']}"),)


class Clients(Asking):
    """Makes changes over any of many connections, and records them."""

    async def close(self) -> None:
        """Close all connections. Do not call this while calls are running."""
        await asyncio.gather(*(line.channel.close() for line in self.lines))

    async def until_served(self) -> None:
        """Wait until every connection works, and the database behind it."""
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*map(self._until_served, self.lines))

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
            labels={"batch": key.batch} if key.batch else {},
            unlimited=[KEY_LIMIT_HATS],
        )
        change = Issue(key=key.name, attempt=attempt, workspace=key.workspace, subject=key.subject, begin=now())
        code, issued = await self._change(change, request)
        if code == OK:
            key.id, key.version = issued.key.id, issued.key.version
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
        return await self._revoke_together(keys, request)

    async def revoke_batch(self, keys: Sequence[Key]) -> str:
        """Try once to revoke the keys of a batch by their label; return the status code."""
        (workspace,), (batch,) = {key.workspace for key in keys}, {key.batch for key in keys}
        wanted = key_service_pb2.KeyFilter(labels=[f"batch={batch}"])
        request = key_service_pb2.RevokeKeysRequest(workspace_id=workspace, filter=wanted, max_keys=len(keys))
        return await self._revoke_together(keys, request)

    async def _revoke_together(self, keys: Sequence[Key], request: Message) -> str:
        first, *others = [Revoke(key=key.name, begin=now()) for key in keys]
        places = [self.recorder.begin(change) for change in others]
        code, _ = await self._change(first, request)
        for place in places:
            self.recorder.end(place, code)
        return code

    async def suspend(self, key: Key, number: int, *, suspended: bool) -> str:
        """Try once to suspend a key, or to resume it; return the status code."""
        kind = key_service_pb2.SuspendKeyRequest if suspended else key_service_pb2.ResumeKeyRequest
        change = Suspend(key=key.name, number=number, suspended=suspended, begin=now())
        code, _ = await self._change(change, kind(key_id=key.id))
        return code

    async def limit(self, key: Key, number: int, limits: Limits, version: int) -> str:
        """Try once to limit a key at this version to hats and networks, and to no others; return the status code."""
        request = key_service_pb2.UpdateKeyRequest(
            key=key_pb2.Key(id=key.id),
            update_mask=FieldMask(paths=["hat_limit", "network_limit"]),
            expected_version=version,
        )
        if limits.hats is None:
            request.unlimited.append(KEY_LIMIT_HATS)
        else:
            request.key.hat_limit.CopyFrom(key_pb2.HatLimit(hat_ids=sorted(limits.hats)))
        if limits.networks is None:
            request.unlimited.append(KEY_LIMIT_NETWORKS)
        else:
            request.key.network_limit.networks.extend(sorted(limits.networks))
        code, updated = await self._change(Limit(key=key.name, number=number, limits=limits, begin=now()), request)
        if code == OK:
            key.version = updated.key.version
        return code

    async def revoke(self, key: Key, line: Line | None = None) -> str:
        """Try once to revoke a key; return the status code."""
        request = key_service_pb2.RevokeKeyRequest(key_id=key.id)
        # By token only where no other attempt can have renewed it.
        if key.attempts == 1 and self.dice.random() < _BY_TOKEN:
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
        return self.dice.choice(self.lines)

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
            key_service_pb2.RevokeKeysRequest: client.keys.RevokeKeys,
            key_service_pb2.SuspendKeyRequest: client.keys.SuspendKey,
            key_service_pb2.ResumeKeyRequest: client.keys.ResumeKey,
            key_service_pb2.UpdateKeyRequest: client.keys.UpdateKey,
            catalog_service_pb2.ApplyWorkspaceRequest: client.catalog.ApplyWorkspace,
            catalog_service_pb2.UpdateWorkspaceRequest: client.catalog.UpdateWorkspace,
            catalog_service_pb2.DeleteWorkspaceRequest: client.catalog.DeleteWorkspace,
        }[type(request)]
        place = self.recorder.begin(change)
        try:
            response = await method(request, timeout=CHANGE_SECONDS, metadata=_OPERATOR)
        except grpc.aio.AioRpcError as error:
            code: str = error.code().name
            self.recorder.end(place, code)
            return code, None
        self.recorder.end(place, OK)
        return OK, response
