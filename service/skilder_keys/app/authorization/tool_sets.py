"""Tool sets: found once for all keys with the same reach, and serialised once.

A workspace's version says what is in it, and a reach says how much of that a key may see. So a tool set, once found for
a version and a reach, is right for ever and needs no fence; which version is the current one is the keys' business.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.release import release
from skilder_keys.app.batching import SingleFlight
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.permissions import NOTHING, Reach, ToolGrant, ToolSet, paths_by_tool, tool_set
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog

if TYPE_CHECKING:
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace import Catalog
    from skilder_keys.storage.database import Database

    Place = tuple[WorkspaceId, int, Reach]

_CATALOGS = 4


class SharedToolSet:
    """What keys of one reach may use, ready to be sent.

    Attributes:
        version: Names its content.
        field: The end of a grant that holds all of it, serialised.
        reference: The end of a grant that names it, in a batch.
        evicted: No longer kept: a key that still points to it must be read again, so that its memory is freed.
    """

    __slots__ = ("_by_id", "_grants", "_paths", "evicted", "field", "reference", "version")

    def __init__(self, tools: ToolSet) -> None:
        encoded = encoding.tool_set(tools)
        self.version = encoded.version
        self.field = encoding.tool_set_field(encoded)
        self.reference = encoding.shared_tool_set_field(encoded)
        self.evicted = False
        self._paths = paths_by_tool(tools)
        self._by_id = {tool.id: tool for tool in tools.tools}
        self._grants: dict[str, bytes] = {}

    def grant(self, tool_id: str) -> bytes | None:
        """Answers the end of a grant of one tool, serialised; None where the tool is not reached."""
        field = self._grants.get(tool_id)
        if field is None:
            tool = self._by_id.get(ToolId(tool_id))
            if tool is not None:
                field = self._grants[tool_id] = encoding.tool_grant_field(ToolGrant(tool, self._paths[tool.id]))
        return field

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes: the records it was made from take some four times its message."""
        return 1000 + 5 * len(self.field)


class ToolSets:
    """A bounded memory of tool sets, the least recently used of which go first.

    Attributes:
        nothing: The empty one.
    """

    def __init__(self, database: Database, capacity: int, offload: Offload | None = None) -> None:
        """Take the bytes it may hold, and where long work is done: a thread of its own by default."""
        self._offload = offload or Offload()
        self._database = database
        self._capacity = capacity
        self._weight = 0
        self.nothing = SharedToolSet(ToolSet((), ()))
        self._sets: dict[Place, SharedToolSet] = {}
        self._order: OrderedDict[SharedToolSet, Place] = OrderedDict()
        self._made: SingleFlight[Place, SharedToolSet | None] = SingleFlight()
        # A few, for keys of one workspace that reach differently much of it.
        self._catalogs: OrderedDict[tuple[WorkspaceId, int], Catalog] = OrderedDict()
        self._read: SingleFlight[tuple[WorkspaceId, int], Catalog | None] = SingleFlight()

    def __len__(self) -> int:
        """Answers how many it holds."""
        return len(self._sets)

    def use(self, found: SharedToolSet) -> None:
        """Notes that a tool set was just used."""
        if found in self._order:
            self._order.move_to_end(found)

    def clear(self) -> None:
        """Forgets all, for a database that may have lost versions and will count them anew."""
        for found in self._order:
            found.evicted = True
        for held in (self._sets, self._order, self._catalogs):
            release(held, 1)
        self._sets, self._order, self._catalogs = {}, OrderedDict(), OrderedDict()
        self._weight = 0
        # What is under way is answered to those who wait for it, and not kept.
        self._made, self._read = SingleFlight(), SingleFlight()

    async def get(self, workspace_id: WorkspaceId, version: int, reach: Reach) -> SharedToolSet | None:
        """Answers the tool set of a reach at a workspace's version; None where that is not the current one any more.

        Raises UnavailableError where the database does not answer.
        """
        if reach == NOTHING:
            return self.nothing
        place = (workspace_id, version, reach)
        return self._sets.get(place) or await self._made.get(place, lambda: self._make(place))

    async def _make(self, place: Place) -> SharedToolSet | None:
        workspace_id, version, reach = place
        at = (workspace_id, version)
        made = self._made
        contents = self._catalogs.get(at) or await self._read.get(at, lambda: self._load(at))
        if contents is None:
            return None
        found = await self._offload.run(lambda: SharedToolSet(tool_set(contents, reach)))
        if made is self._made:
            self._keep(place, found)
        return found

    async def _load(self, at: tuple[WorkspaceId, int]) -> Catalog | None:
        workspace_id, version = at
        read = self._read
        async with self._database.connection() as connection:
            found_version, found = await catalog.load_catalog(
                connection, workspace_id, texts=False, offload=self._offload
            )
        if found_version != version:
            return None
        if read is self._read:
            self._catalogs[at] = found
            if len(self._catalogs) > _CATALOGS:
                self._catalogs.popitem(last=False)
        return found

    def _keep(self, place: Place, found: SharedToolSet) -> None:
        self._sets[place] = found
        self._order[found] = place
        self._weight += found.weight
        while self._weight > self._capacity and len(self._order) > 1:
            oldest, its_place = self._order.popitem(last=False)
            oldest.evicted = True
            self._weight -= oldest.weight
            del self._sets[its_place]
