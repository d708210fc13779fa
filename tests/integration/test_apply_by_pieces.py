"""An apply that skips the pieces of a workspace that are as they were does what an apply of everything does."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1.workspace_pb2 import Hat, Tool, Workspace
from skilder_keys.app.authorization.encoding import delimited, delimited_tag
from skilder_keys.domain.difference import KINDS, Part, difference, parts_of
from skilder_keys.domain.errors import (
    ActorNotAllowedError,
    ActorNotMemberError,
    InvalidRequestError,
    TooManyChangedError,
    VersionMismatchError,
)
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
    import asyncpg

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


@pytest.mark.parametrize("piece", by_form([2], [1, 2, 48]))
@ONLY_GRPCIO
@pytest.mark.long
async def test_random_edits_are_found_whoever_made_them(
    service: Service, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """By an apply, an update or by hand. Most applies send an older state again, or one in another order."""
    monkeypatch.setattr(workspace_digests, "_MIN_PIECE", piece)
    monkeypatch.setattr(workspace_digests, "_MASK", 1)
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - chance, not a secret
    sent = [small_workspace()]
    for _ in range(by_form(25, 100, 300)):
        if source.random() < 0.2:
            await sql.execute(source.choice(BY_HAND))
        if source.random() < 0.2:
            try:
                await service.operator.catalog.UpdateWorkspace(random_update(source, sent[-1]))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017 - others are not meant
        before = await get_workspace(service.operator)
        based_on = source.choice([before.workspace, sent[-1], source.choice(sent)])
        edit = random_update(source, based_on) if source.random() < 0.7 else pb.UpdateWorkspaceRequest()
        desired = as_applied(based_on, edit)
        if source.random() < 0.2:
            parts: Any = getattr(desired, source.choice(LISTS))
            mixed = source.sample(list(parts), len(parts))
            del parts[:]
            parts.extend(mixed)
        if source.random() < 0.1:
            parts = getattr(desired, source.choice(LISTS))
            parts.extend(source.sample(list(parts), min(1, len(parts))))
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
    """Applies workspaces, and notes of which kinds parts were converted for it, and how many in all."""

    def __init__(self, process: Process) -> None:
        self._workspaces = process.workspaces
        self.kinds: list[set[Part]] = []
        self.count = 0

    async def apply(self, workspace: Workspace, **fields: Any) -> int:
        """Apply a workspace and return the number of changes."""
        sender = self

        class Noting(workspace_digests.SentWorkspace):
            def convert(self) -> Any:
                sender.kinds.append(set(KINDS))
                return super().convert()

            def unknown(self, known: Any, most: int) -> Any:
                found = super().unknown(known, most)
                if found is not None:
                    sender.kinds.append(set(found.ids))
                    sender.count = sum(map(len, parts_of(found.parts).values()))
                return found

        body = pb.ApplyWorkspaceRequest(workspace=workspace).SerializeToString()
        version, actor = fields.pop("expected_version", None), fields.pop("actor", None)
        origin = replace(ORIGIN, actor=actor)
        _, changes = await self._workspaces.apply_asked(Noting(workspace, body), version, origin, **fields)
        return len(changes)


async def test_what_is_as_it_was_is_not_converted(
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
    assert sender.kinds == [everything, set(), {Part.MEMBER}, {Part.MEMBER}, {Part.HAT, Part.TOOL}]
    sender.kinds.clear()
    await sql.execute("UPDATE tool SET disabled = true WHERE id = 'git.push'")
    assert await sender.apply(workspace) == 1
    monkeypatch.setattr(workspace_digests, "_KEY", b"other rules")
    assert await sender.apply(workspace) == 0
    assert await sender.apply(workspace) == 0
    # With other rules no piece is known, so all are compared.
    assert sender.kinds == [everything, everything, set()]


async def test_a_change_touches_a_few_parts_of_many(writer: Process) -> None:
    """A changed tool, one that is added, one that is removed, and one that moves: each converts a piece or two."""
    sender = Sender(writer)
    workspace = small_workspace()
    tools: Any = workspace.tools
    tools.extend(Tool(id=f"tool-{each:04}", name=f"name-{each}", mcp_server="many") for each in range(3000))
    assert await sender.apply(workspace) == 3000
    for change in (
        lambda: setattr(tools[1500], "disabled", True),
        lambda: tools.insert(700, Tool(id="one", name="more", mcp_server="many")),
        lambda: tools.pop(2000),
    ):
        change()
        assert await sender.apply(workspace) == 1
        assert 0 < sender.count < 1000
    tools.insert(2500, tools.pop(100))
    assert await sender.apply(workspace) == 0
    assert 0 < sender.count < 1000
    assert set(KINDS) not in sender.kinds[1:]


async def test_a_change_of_a_few_parts_is_refused_as_one_of_all_is(writer: Process) -> None:
    """With the same error, whichever part of the workspace is at fault."""
    sender, workspace = Sender(writer), small_workspace()
    workspace.tools.extend(Tool(id=f"tool-{each:04}", name=f"name-{each}", mcp_server="many") for each in range(1000))
    workspace.skills.add(id="all", name="All", tool_ids=[each.id for each in workspace.tools[:1000]])
    workspace.hats.extend(Hat(id=f"hat-{each}", name="A hat", skill_ids=["all"]) for each in range(49))
    await sender.apply(workspace)
    copies = (Workspace.FromString(workspace.SerializeToString()) for _ in range(7))
    twice, paths, unknown, removed, taken, wide, nameless = copies
    twice.tools.insert(900, twice.tools[3])
    paths.hats.extend(Hat(id=f"more-{each}", name="A hat", skill_ids=["all"]) for each in range(2))
    unknown.tools.pop(900)
    del removed.members[:]
    taken.tools[900].name = taken.tools[10].name
    wide.tools[900].mcp_server = "m" * 256
    nameless.name = ""
    for wrong, fields, error, words in (
        (twice, {}, InvalidRequestError, "which another entry has already"),
        (paths, {}, InvalidRequestError, "at most 50000 are allowed"),
        (unknown, {}, InvalidRequestError, "which does not exist"),
        (taken, {}, InvalidRequestError, "which another entry has already"),
        (wide, {}, InvalidRequestError, "256"),
        (nameless, {}, InvalidRequestError, "workspace.name is required"),
        (removed, {"max_removals": 0}, TooManyChangedError, "would remove"),
        (removed, {"expected_version": 77}, VersionMismatchError, "not 77"),
        (removed, {"actor": "bob"}, ActorNotAllowedError, None),
        (removed, {"actor": "nobody"}, ActorNotMemberError, None),
    ):
        with pytest.raises(error, match=words):
            await sender.apply(wrong, **fields)
        assert sender.kinds[-1] == set(KINDS)
    assert await sender.apply(workspace) == 0
    assert sender.kinds[-1] == set()


async def test_parts_of_a_kind_with_others_between_them_are_all_applied(service: Service) -> None:
    """As a client may serialise them, though none does. Nothing is skipped then."""
    workspace = small_workspace()
    for _ in range(2):
        tool = Tool(id=f"tool-{len(workspace.tools)}", name=f"name-{len(workspace.tools)}", mcp_server="more")
        workspace.tools.append(tool)
        others, last = Workspace(), Workspace(tools=[tool])
        others.CopyFrom(workspace)
        del others.tools[-1]
        between = Workspace(members=[others.members.pop()])
        body = b"".join(each.SerializeToString() for each in (others, between, last))
        request = delimited(delimited_tag(pb.ApplyWorkspaceRequest.WORKSPACE_FIELD_NUMBER), body)
        call: Any = service.operator.channel.unary_unary("/skilder.keys.v1.CatalogService/ApplyWorkspace")
        response = pb.ApplyWorkspaceResponse.FromString(await call(request))
        assert [each.id for each in response.changes] == [tool.id]
        assert (await get_workspace(service.operator)).workspace == canonical(workspace)
