"""Check the audit trail of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.audit_check import ChainCheck
from skilder_keys.storage import audit_chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from skilder_keys.domain.audit_check import ExpectedHead
    from skilder_keys.storage.database import Connection


async def check(
    snapshot: Connection, workspace_ids: Collection[str], expected: Iterable[ExpectedHead]
) -> AsyncIterator[ChainCheck]:
    """Yield the finished check of each workspace, in order of their ids.

    Args:
        snapshot: A snapshot.
        workspace_ids: The workspaces to check; empty for all.
        expected: Heads that were noted before. Their workspaces are checked too.
    """
    heads = await audit_chain.heads(snapshot)
    noted: dict[str, ChainCheck] = {}
    for each in expected:
        noted.setdefault(each.workspace_id, ChainCheck(each.workspace_id)).expect(each.head)
    for workspace_id in sorted({*workspace_ids, *noted} if workspace_ids else {*heads, *noted}):
        one = noted.get(workspace_id) or ChainCheck(workspace_id)
        async for older in audit_chain.older(snapshot, workspace_id):
            for older_event in older:
                one.older(older_event)
        async for chained in audit_chain.chained(snapshot, workspace_id):
            for event in chained:
                one.add(event)
        one.finish(heads.get(workspace_id))
        yield one
