"""Makes variants of tool sets and encodes them, in threads where that takes long, once for all calls that need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.batching import SingleFlight
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.tool_sets import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.app.authorization.contents import Contents
    from skilder_keys.app.authorization.encoding import EncodedToolSet
    from skilder_keys.app.authorization.memory import Access
    from skilder_keys.app.authorization.query import AuthorizeQuery
    from skilder_keys.app.authorization.tool_sets import Servers, SharedToolSet
    from skilder_keys.app.time_slices import TimeSlices
    from skilder_keys.offload import Offload


class ToolSetEncoder:
    """Makes variants of tool sets and encodes them."""

    def __init__(self, offload: Offload) -> None:
        """Make it.

        Args:
            offload: Where large tool sets are encoded.
        """
        self._offload = offload
        self._encoding: SingleFlight[SharedToolSet, EncodedToolSet] = SingleFlight()
        self._making: SingleFlight[tuple[Servers, str], Contents] = SingleFlight()

    async def varied(self, found: Access | Denied, query: AuthorizeQuery) -> Access | Denied:
        """Return what was found, with the variant of the tool set that a query is about in place of the whole one."""
        if query.variant is WHOLE or not query.has_variant or isinstance(found, Denied):
            return found
        key, tools = found
        if isinstance(tools, DenialReason):
            return found
        varied = tools.variants.get(query.variant)
        if varied is None:
            contents = await self._contents(tools.servers, query.variant.mcp_server)
            varied = tools.variant(query.variant, contents)
        return key, varied

    async def _contents(self, servers: Servers, server: str | None) -> Contents:
        """Return the contents of an MCP server: made in a thread, once for all calls that need it, unless small."""
        held = servers.find(server)
        if held is not None or server is None:
            return held or servers.contents
        if servers.is_small(server):
            return servers.keep(server, servers.make(server))
        made = self._making.get((servers, server), lambda: self._offload.run(servers.make, server))
        return servers.keep(server, await made)

    async def encoded(self, tools: SharedToolSet) -> EncodedToolSet:
        """Return a whole tool set, encoded: in a thread, once for all calls that need it, unless it is small."""
        if tools.encoded is not None:
            return tools.encoded
        if tools.is_small:
            return tools.keep(tools.encode())
        return tools.keep(await self._encoding.get(tools, lambda: self._offload.run(tools.encode)))

    async def fields(self, tool_sets: Iterable[SharedToolSet], room: int, slices: TimeSlices) -> list[bytes]:
        """Return the tool sets for which there is room, encoded. Do not encode the others."""
        fields = []
        for each in tool_sets:
            if slices.over():
                await slices.next()
            if each.least_bytes > room:
                continue
            field = (await self.encoded(each)).field
            if len(field) <= room:
                room -= len(field)
                fields.append(field)
        return fields
