"""Tool sets: computed and serialised once for all keys with the same reach.

The version of a workspace determines its contents, and a reach determines how much of them a key may see. So the tool
set of a version and a reach never changes, and the fence does not have to drop it. The keys know the current version.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.release import release
from skilder_keys.app.batching import SingleFlight
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.permissions import NOTHING, Reach, ToolSet, tool_grants, tool_set
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace import Catalog
    from skilder_keys.storage.database import Database

    _Id = tuple[WorkspaceId, int, Reach]

_CATALOGS = 4


class SharedToolSet:
    """What all keys of one reach may use, serialised.

    Attributes:
        version: The digest of its content.
        reference: The second part of a grant that only names the tool set.
        field: The second part of a grant with the whole tool set.
        reach: The second part of a grant to a caller that does not have the tool set: `field`, or `reference` if the
            tool set is too large to be sent at once.
        weight: About how many bytes of memory it takes, with the grants of all its tools.
        evicted: Whether it is not kept any more. A key with an evicted tool set is loaded again, so that the memory of
            the tool set is freed.
    """

    __slots__ = ("_encoded", "_fields", "_grants", "evicted", "field", "reach", "reference", "version", "weight")

    def __init__(self, tools: ToolSet) -> None:
        self._encoded = encoding.tool_set(tools)
        self.version = self._encoded.version
        self.reference = encoding.tool_set_reference(self._encoded)
        self.field = self._encoded.field
        self.reach = self.field if len(self.field) <= encoding.MAX_TOOL_SET_BYTES else self.reference
        self.evicted = False
        self._grants = tool_grants(tools)
        self._fields: dict[str, bytes] = {}
        # As measured, for tool sets of many shapes: the message, the records of tools and skills, and the paths.
        paths = sum(len(grant.paths) for grant in self._grants.values())
        self.weight = 1000 + 2 * len(self.field) + 300 * len(self._grants) + 50 * paths

    def grant(self, tool_id: str) -> bytes | None:
        """Return the second part of a grant of one tool, serialised; None if the tool is not reached."""
        field = self._fields.get(tool_id)
        if field is None:
            grant = self._grants.get(ToolId(tool_id))
            if grant is not None:
                field = self._fields[tool_id] = encoding.tool_grant_field(grant, self._encoded)
        return field

    def parts(self) -> Iterator[bytes]:
        """Yield the tool set as ReadToolSetResponses, each one when it is asked for."""
        return self._encoded.parts()


class ToolSets:
    """A bounded cache of tool sets, which drops the least recently used ones.

    Attributes:
        nothing: The empty tool set.
    """

    def __init__(self, database: Database, capacity: int, offload: Offload | None = None) -> None:
        """Make an empty cache.

        Args:
            database: The database.
            capacity: The most bytes of memory.
            offload: Where tool sets are computed; by default in a new thread.
        """
        self._offload = offload or Offload()
        self._database = database
        self._capacity = capacity
        self._weight = 0
        self.nothing = SharedToolSet(ToolSet())
        self._sets: dict[_Id, SharedToolSet] = {}
        self._order: OrderedDict[SharedToolSet, _Id] = OrderedDict()
        self._made: SingleFlight[_Id, SharedToolSet | None] = SingleFlight()
        # The last few catalogs, for keys of one workspace with different reaches.
        self._catalogs: OrderedDict[tuple[WorkspaceId, int], Catalog] = OrderedDict()
        self._read: SingleFlight[tuple[WorkspaceId, int], Catalog | None] = SingleFlight()

    def __len__(self) -> int:
        """Return the number of tool sets."""
        return len(self._sets)

    def use(self, shared: SharedToolSet) -> None:
        """Mark a tool set as the most recently used one."""
        if shared in self._order:
            self._order.move_to_end(shared)

    def clear(self) -> None:
        """Drop everything: the database may have lost versions, and may reuse their numbers."""
        for shared in self._order:
            shared.evicted = True
        for unused in (self._sets, self._order, self._catalogs):
            release(unused, 1)
        self._sets, self._order, self._catalogs = {}, OrderedDict(), OrderedDict()
        self._weight = 0
        # Running loads return their results to those who wait, but nothing of them is kept.
        self._made, self._read = SingleFlight(), SingleFlight()

    async def get(self, workspace_id: WorkspaceId, version: int, reach: Reach) -> SharedToolSet | None:
        """Return the tool set of a version and a reach; None if the workspace is at another version now.

        Raises:
            UnavailableError: The database does not respond.
        """
        if reach == NOTHING:
            return self.nothing
        id_ = (workspace_id, version, reach)
        return self._sets.get(id_) or await self._made.get(id_, lambda: self._make(id_))

    async def _make(self, id_: _Id) -> SharedToolSet | None:
        workspace_id, version, reach = id_
        at = (workspace_id, version)
        made = self._made
        contents = self._catalogs.get(at) or await self._read.get(at, lambda: self._load(at))
        if contents is None:
            return None
        shared = await self._offload.run(lambda: SharedToolSet(tool_set(contents, reach)))
        if made is self._made:
            self._keep(id_, shared)
        return shared

    async def _load(self, at: tuple[WorkspaceId, int]) -> Catalog | None:
        workspace_id, version = at
        read = self._read
        async with self._database.connection() as connection:
            current_version, contents = await catalog.load_catalog(
                connection, workspace_id, texts=False, offload=self._offload
            )
        if current_version != version:
            return None
        if read is self._read:
            self._catalogs[at] = contents
            if len(self._catalogs) > _CATALOGS:
                self._catalogs.popitem(last=False)
        return contents

    def _keep(self, id_: _Id, shared: SharedToolSet) -> None:
        self._sets[id_] = shared
        self._order[shared] = id_
        self._weight += shared.weight
        while self._weight > self._capacity and len(self._order) > 1:
            oldest, oldest_id = self._order.popitem(last=False)
            oldest.evicted = True
            self._weight -= oldest.weight
            del self._sets[oldest_id]
