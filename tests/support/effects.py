"""What a call grants, lists, issues or changes, as a set of facts.

A request with less in it must never have a fact that the whole request does not have.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest
from skilder.keys.v1.key_pb2 import (
    KEY_LIMIT_HATS,
    KEY_STATE_ACTIVE,
    KEY_STATE_REVOKED,
    KEY_STATE_SUSPENDED,
    KEY_TYPE_RUNTIME,
    KEY_TYPE_USER,
    HatLimit,
    KeyState,
    NetworkLimit,
)
from skilder.keys.v1.key_service_pb2 import KeyFilter
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE, MEMBER_ROLE_ADMIN, Hat, Workspace
from tests.support.calls import (
    METHODS,
    call,
    delete_workspace,
    get_key,
    get_workspace,
    id_of,
    list_keys,
    list_workspaces,
)
from tests.support.variants import Variant, with_less
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from skilder.keys.v1.authorization_service_pb2 import ToolSet
    from tests.support.service import Client, Service

Facts = frozenset[tuple[Any, ...]]
NOTHING: Facts = frozenset()
_OF_A_TOOL = {"tool_id", "tool_name"}


@dataclass(frozen=True, slots=True)
class Case:
    """A request of a method that does something, and how that is measured.

    Attributes:
        method: The method, as `KeyService/IssueKey`.
        name: What is special about the request.
        caller: The role of the caller.
        make: Makes the request, the same each time but for what can be used only once.
        measure: Sends a request and returns the facts, given the whole request too.
        narrows: The fields that only narrow. Without one of them, or a part of it, a request is compared with one
            without any of them.
        meant: Fields that are left out on purpose to say the opposite, and why that is safe.
        refused: Whether the whole request is refused, so that it must do nothing with less in it either.
        shallow: Whether it is enough to leave out fields that are in no list, as another case has the same lists.
    """

    method: str
    name: str
    caller: str
    make: Callable[[World], Awaitable[Message]]
    measure: Callable[[World, Case, Message, Message], Awaitable[Facts]]
    narrows: tuple[str, ...] = ()
    meant: dict[str, str] = field(default_factory=dict)
    refused: bool = False
    shallow: bool = False

    def variants(self, request: Message) -> list[Variant]:
        """Return what is sent instead of a request, in the same order for each request that is made."""
        return [each for each in with_less(request) if not (self.shallow and "[" in each.path)]

    async def send(self, world: World, request: Message) -> list[Any]:
        """Return the response to a request, or nothing if it is refused."""
        return await send(getattr(world.service, self.caller), self.method, request)


async def send(client: Client, method: str, request: Message) -> list[Any]:
    """Call a method and return its response, or nothing if it refuses the call."""
    response: Any = message_factory.GetMessageClass(METHODS[method].output_type)
    try:
        return [response.FromString(await call(client, method, request))]
    except grpc.aio.AioRpcError as error:
        if error.code() not in REFUSALS:
            raise
        return []


REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}


SOURCES = NetworkLimit(networks=["198.51.100.0/24", "2001:db8::/32"])
NEAR = "198.51.100.7"
_ADDRESSES = ("", NEAR, "2001:db8::1", "192.0.2.1", "203.0.113.1")


@dataclass(slots=True)
class World:
    """A workspace and keys in a service.

    Attributes:
        wide, near, narrow: Tokens of workspace keys of `acme`: without a limit, limited to `SOURCES`, and to one hat.
        probes: Tokens by a name: the two, and user keys of each member.
        untouched: The state of the workspace as `prepare` made it, once it is known.
        numbers: Makes names that were not used before.
    """

    service: Service
    wide: str = ""
    near: str = ""
    narrow: str = ""
    probes: dict[str, str] = field(default_factory=dict)
    untouched: Facts = NOTHING
    numbers: Any = field(default_factory=itertools.count)

    async def prepare(self) -> World:
        """Make the workspaces and the keys."""
        operator = self.service.operator
        for workspace in (whole_workspace(), small_workspace("other"), small_workspace("gone")):
            await operator.apply(workspace)
        await delete_workspace(operator, "gone")
        self.wide = (await operator.issue(unlimited=[KEY_LIMIT_HATS])).token
        self.near = (await operator.issue(network_limit=SOURCES)).token
        self.narrow = (await operator.issue(hat_limit=HatLimit(hat_ids=["customer-care"]))).token
        self.probes = {"wide": self.wide, "narrow": self.narrow}
        # More than one for each, so that a call with `max_keys=1` revokes none of them if its filter says less.
        for user in ("bob", "bob", "bob", "cyd", "cyd"):
            issued = await operator.issue(
                type=KEY_TYPE_USER,
                user_id=user,
                unlimited=[KEY_LIMIT_HATS],
                labels={"team": "support", "env": ""},
                lifetime=Duration(seconds=10_000_000),
            )
            self.probes[user] = issued.token
        await operator.issue(type=KEY_TYPE_RUNTIME, runtime_id="runtime-1")
        await operator.issue(workspace_id="other", unlimited=[KEY_LIMIT_HATS])
        return self

    def new(self, stem: str) -> str:
        """Return a name that was not used before."""
        return f"{stem}-{next(self.numbers)}"

    async def tools(self, token: str, source_ip: str = "") -> set[str]:
        """Return the ids of the tools that a token reaches."""
        response = await self.service.service.authorize(token, source_ip=source_ip)
        return {tool.id for tool in response.granted.tool_set.tools}

    async def reached(self, token: str) -> set[tuple[str, str, str]]:
        """Return the tools that a token reaches from each of some addresses."""
        return {("reaches", tool, source) for source in _ADDRESSES for tool in await self.tools(token, source)}

    async def version(self, token: str) -> str:
        """Return the version of the tool set of a token."""
        return str((await self.service.service.authorize(token)).granted.tool_set.version)


async def make_world(service: Service) -> World:
    """Make the workspaces and the keys in a service."""
    return await World(service).prepare()


def whole_workspace() -> Workspace:
    """Return the workspace `acme` with every field set somewhere."""
    workspace = small_workspace()
    workspace.hats.append(Hat(id="public", name="Public", skill_ids=["slack-reading"], audience=HAT_AUDIENCE_WORKSPACE))
    for hat in workspace.hats:
        hat.description, hat.instructions = "What it is for", "What to do"
    for skill in workspace.skills:
        skill.description = "What it is for"
    return workspace


async def let_through(world: World, case: Case, request: Message, whole: Message) -> Facts:
    """Return the tools that a client lets through: only if the kind of reach is the one that it wanted to ask for."""
    wholes = list(getattr(whole, "requests", [getattr(whole, "request", whole)]))
    wanted = {each.token: each.WhichOneof("scope") in _OF_A_TOOL for each in wholes}
    sent = list(getattr(request, "requests", [getattr(request, "request", request)]))
    facts = set()
    for response in await case.send(world, request):
        responses = getattr(response, "responses", [response])
        if case.method.endswith("ReadToolSet"):
            facts |= _facts_of(response.tool_set)
            continue
        assert len(responses) == len(sent)
        for asked, each in zip(sent, responses, strict=True):
            kind = each.granted.WhichOneof("reach")
            if wanted.get(asked.token) is True and kind == "tool":
                facts.add(("a tool", each.granted.tool.tool.id))
            elif wanted.get(asked.token) is False and kind in {"tool_set", "tool_set_version"}:
                facts |= await _sent(world, asked)
            if asked.WhichOneof("scope") in _OF_A_TOOL and kind not in {None, "tool"}:
                # Whoever looks at `granted` alone takes it for the grant of the tool.
                facts.add(("more than a tool", kind))
    return frozenset(facts)


async def _sent(world: World, asked: AuthorizeRequest) -> set[tuple[str, str]]:
    """Return what is in the tool set that a request asks about, which the response may only name."""
    anew = AuthorizeRequest()
    anew.CopyFrom(asked)
    anew.ClearField("tool_set_version")
    return _facts_of((await world.service.service.authorization.Authorize(anew)).granted.tool_set)


def _facts_of(tools: ToolSet) -> set[tuple[str, str]]:
    described: tuple[Any, ...] = (*tools.hats, *tools.skills)
    texts = {("text", each.id) for each in described if each.description}
    return texts | {("a set", tool.id) for tool in tools.tools}


_LONG_DAYS = 1000


async def power_of_the_key(world: World, case: Case, request: Message, _: Message) -> Facts:
    """Return what an issued key reaches, and whether it ever expires."""
    for response in await case.send(world, request):
        return await _power_of(world, response)
    return NOTHING


async def power_of_the_successor(world: World, case: Case, request: Message, _: Message) -> Facts:
    """Return what the successor of a runtime's own key may do."""
    issued = await world.service.operator.issue(type=KEY_TYPE_RUNTIME, runtime_id=world.new("own"))
    for response in await send(await world.service.client(issued.token), case.method, request):
        return await _power_of(world, response) | {("runtime", response.key.runtime_id == issued.key.runtime_id)}
    return NOTHING


async def _power_of(world: World, response: Any) -> Facts:
    reached = await world.reached(response.token)
    lives = set() if response.key.HasField("expires_at") else {("never expires",)}
    return frozenset(reached | lives | {("is", response.key.type, response.key.workspace_id, response.key.user_id)})


async def power_of_the_changed_key(world: World, case: Case, request: Message, whole: Message) -> Facts:
    """Return what the key that a request aims at gains by the call: tools, and days to live."""
    key_id: str = whole.key.id  # type: ignore[attr-defined]
    before = await _power(world, key_id)
    await case.send(world, request)
    return await _power(world, key_id) - before


async def _power(world: World, key_id: str) -> Facts:
    key = await get_key(world.service.operator, key_id)
    days = _LONG_DAYS
    if key.HasField("expires_at"):
        days = (key.expires_at.ToDatetime() - key.created_at.ToDatetime()).days
    reached = await world.reached(world.probes[key_id])
    return frozenset(reached | {("lives", day) for day in range(days)})


async def revoked(world: World, case: Case, request: Message, whole: Message) -> Facts:
    """Return the keys that are revoked after a call but were not before; the one that it aims at is the target."""
    return await _become(KEY_STATE_REVOKED, world, case, request, whole)


async def suspended(world: World, case: Case, request: Message, whole: Message) -> Facts:
    """Return the keys that are suspended after a call but were not before, as `revoked`."""
    return await _become(KEY_STATE_SUSPENDED, world, case, request, whole)


async def resumed(world: World, case: Case, request: Message, whole: Message) -> Facts:
    """Return the keys that are active after a call but were not before, as `revoked`."""
    return await _become(KEY_STATE_ACTIVE, world, case, request, whole)


async def _become(state: KeyState.ValueType, world: World, case: Case, request: Message, whole: Message) -> Facts:
    before = await _keys_in(world, state)
    await case.send(world, request)
    reason = whole.reason  # type: ignore[attr-defined]
    return frozenset(
        (KeyState.Name(state), "target" if description == reason else description)
        for description in (await _keys_in(world, state) - before).elements()
    )


async def _keys_in(world: World, state: KeyState.ValueType) -> Counter[str]:
    page = await list_keys(world.service.operator, page_size=1000, filter=KeyFilter(states=[state]))
    assert not page.next_page_token
    return Counter(key.description for key in page.keys)


async def listed(world: World, case: Case, request: Any, _: Message) -> Facts:
    """Return the ids on all pages of a list; a page size and a page token only choose the page."""
    if not await case.send(world, request):
        return NOTHING
    asked = type(request)()
    asked.CopyFrom(request)
    asked.page_token, asked.page_size = "", 1000
    (page,) = await case.send(world, asked)
    assert not page.next_page_token
    (elements,) = [value for each, value in page.ListFields() if each.is_repeated] or [[]]
    return frozenset(("listed", id_of(each)) for each in elements)


async def followed(world: World, case: Case, request: Message, _: Message) -> Facts:
    """Return the events in the first response of a stream."""
    return frozenset(
        ("event", id_of(event)) for response in await case.send(world, request) for event in response.events
    )


async def explained(world: World, case: Case, request: Any, _: Message) -> Facts:
    """Return what a key is said to reach, on all pages; a page size and a page token only choose the page."""
    if not await case.send(world, request):
        return NOTHING
    asked = type(request)()
    asked.CopyFrom(request)
    asked.page_token, asked.page_size = "", 1000
    (found,) = await case.send(world, asked)
    assert not found.next_page_token
    tools = [*found.tools, found.tool.tool] if found.HasField("tool") else found.tools
    return frozenset(
        {("of", found.key.id, found.denial)}
        | {("hat", hat.hat_id, hat.reach) for hat in found.hats}
        | {("reaches", tool.id) for tool in tools}
    )


async def used(world: World, case: Case, request: Any, _: Message) -> Facts:
    """Return each call that usage has, by a number."""
    for usage in await case.send(world, request):
        series = [*usage.series, usage.rest]
        return frozenset(
            ("call", number)
            for number in range(sum(point.granted + point.denied for each in series for point in each.points))
        )
    return NOTHING


async def counted(world: World, case: Case, request: Message, _: Message) -> Facts:
    """Return how many keys of each type and state were counted."""
    return frozenset(
        (each.type, each.state, number)
        for response in await case.send(world, request)
        for each in response.counts
        for number in range(each.count)
    )


async def read(world: World, case: Case, request: Message, _: Message) -> Facts:
    """Return the fields of the key or workspace that was read."""
    return frozenset(
        ("read", name, field.name, str(content))
        for response in await case.send(world, request)
        for name, value in ((each.name, value) for each, value in response.ListFields())
        if name in {"key", "workspace"}
        for field, content in value.ListFields()
    )


async def state_of_the_workspace(world: World, case: Case, request: Message, _: Message) -> Facts:
    """Return what members may do and keys reach after a call, and what it removed. Then restore the workspace."""
    before = await get_workspace(world.service.operator)
    await case.send(world, request)
    after = await get_workspace(world.service.operator)
    if not world.untouched:
        world.untouched = await _state(world, before.workspace)
    if after.version == before.version:
        return world.untouched
    facts = await _state(world, after.workspace)
    restored = whole_workspace()
    restored.key_policy.SetInParent()
    await world.service.operator.apply(restored, max_removals=1000)
    return facts | {("removed", *part) for part in _parts(before.workspace) - _parts(after.workspace)}


async def _state(world: World, workspace: Workspace) -> Facts:
    reached = {(probe, tool) for probe, token in world.probes.items() for tool in await world.tools(token)}
    admins = {member.user_id for member in workspace.members if member.role == MEMBER_ROLE_ADMIN}
    return frozenset({("reaches", *each) for each in reached} | {("admin", user) for user in admins})


def _parts(workspace: Workspace) -> set[tuple[str, str]]:
    return {
        (each.name, part.user_id if each.name == "members" else part.id)
        for each, value in workspace.ListFields()
        if each.is_repeated
        for part in value
    }


async def deleted(world: World, case: Case, request: Message, whole: Message) -> Facts:
    """Return the workspaces that are gone after a call."""
    before = await _workspaces(world)
    await case.send(world, request)
    target = whole.workspace_id  # type: ignore[attr-defined]
    return frozenset(("deleted", "target" if id_ == target else id_) for id_ in before - await _workspaces(world))


async def _workspaces(world: World) -> set[str]:
    return {each.id for each in (await list_workspaces(world.service.operator, page_size=1000)).workspaces}
