"""An apply that skips the kinds of parts that are as they were does what an apply of everything does."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder_keys.domain.difference import KINDS, Part, difference
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces, workspace_digests
from tests.support.calls import get_workspace, part
from tests.support.fleet import ORIGIN
from tests.support.lengths import by_form
from tests.support.service import refusal
from tests.support.shapes import canonical
from tests.support.transport import ONLY_GRPCIO
from tests.support.updates import LISTS, as_applied, random_update
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from skilder.keys.v1 import catalog_service_pb2 as pb
    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.fleet import Process
    from tests.support.service import Service

BY_HAND = (
    "UPDATE tool SET disabled = NOT disabled WHERE id = 'web.search'",
    "DELETE FROM team_member WHERE user_id = 'bob'",
    "UPDATE hat SET description = description || '!' WHERE id = 'everyone'",
    "INSERT INTO member (workspace_id, user_id, role) VALUES ('acme', 'eve', 'viewer') ON CONFLICT DO NOTHING",
    "DELETE FROM hat_skill WHERE skill_id = 'search'",
    "UPDATE team SET name = name || '!'",
    "BEGIN; UPDATE workspace SET name = 'By hand'; DELETE FROM skill_tool WHERE tool_id = 'slack.post'; COMMIT",
)


def changes_of(before: Workspace, after: Workspace) -> list[pb.WorkspaceChange] | None:
    """Return what a full comparison finds; None if the second one is not valid."""
    try:
        desired = checked(convert_workspaces.workspace(after))
    except InvalidRequestError:
        return None
    current = checked(convert_workspaces.workspace(before))
    return [convert_workspaces.change_message(each) for each in difference(current, desired)]


@ONLY_GRPCIO
@pytest.mark.long
async def test_random_edits_are_found_whoever_made_them(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """By an apply, an update or by hand. Most applies send an older state again, or one in another order."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - chance, not a secret
    sent = [small_workspace()]
    for _ in range(by_form(80, 600)):
        if source.random() < 0.2:
            await sql.execute(source.choice(BY_HAND))
        if source.random() < 0.2:
            try:
                await service.operator.catalog.UpdateWorkspace(random_update(source, sent[-1]))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017 - others are not meant
        before = await get_workspace(service.operator)
        based_on = source.choice([before.workspace, sent[-1], source.choice(sent)])
        desired = as_applied(based_on, random_update(source, based_on)) if source.random() < 0.7 else based_on
        if source.random() < 0.2:
            parts: Any = getattr(desired, source.choice(LISTS))
            mixed = source.sample(list(parts), len(parts))
            del parts[:]
            parts.extend(mixed)
        expected = changes_of(before.workspace, desired)
        for dry_run in (True, False):
            if expected is None:
                refused = await refusal(service.operator.apply(desired, max_removals=1000, dry_run=dry_run))
                assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
            else:
                response = await service.operator.apply(desired, max_removals=1000, dry_run=dry_run)
                assert list(response.changes) == expected
                assert response.version == before.version + bool(expected)
        after = await get_workspace(service.operator)
        assert after.workspace == (before.workspace if expected is None else canonical(desired))
        if expected is not None:
            sent.append(desired)


class Sender:
    """Applies workspaces, and notes which kinds of parts were converted for it."""

    def __init__(self, process: Process) -> None:
        self._workspaces = process.workspaces
        self.converted: list[set[Part]] = []

    async def apply(self, workspace: Workspace, **fields: Any) -> int:
        """Apply a workspace and return the number of changes."""
        asked = workspace_digests.asked(workspace)

        def convert(kinds: Collection[Part]) -> Any:
            self.converted.append(set(kinds))
            return asked.convert(kinds)

        noting = replace(asked, convert=convert)
        _, changes = await self._workspaces.apply_asked(noting, None, ORIGIN, **fields)
        return len(changes)


async def test_kinds_that_are_as_they_were_are_not_converted(
    writer: Process, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by an apply nor by a dry run. After a change by hand, or by other rules, everything is converted."""
    sender, workspace = Sender(writer), small_workspace()
    assert await sender.apply(workspace) == 0
    assert await sender.apply(workspace) == 0
    part(workspace.members, "bob").team_ids.append("engineering")
    assert await sender.apply(workspace, dry_run=True) == 1
    assert await sender.apply(workspace) == 1
    part(workspace.tools, "git.push").disabled = False
    part(workspace.hats, "engineer").skill_ids.append("slack-reading")
    assert await sender.apply(workspace) == 2
    everything = set(KINDS)
    assert sender.converted == [everything, set(), {Part.MEMBER}, {Part.MEMBER}, {Part.HAT, Part.TOOL}]
    sender.converted.clear()
    await sql.execute("UPDATE tool SET disabled = true WHERE id = 'git.push'")
    assert await sender.apply(workspace) == 1
    monkeypatch.setattr(workspace_digests, "_KEY", b"other rules")
    assert await sender.apply(workspace) == 0
    assert await sender.apply(workspace) == 0
    assert sender.converted == [everything, everything, set()]
