"""Tool sets in memory, whole and in variants, with their serialised answers. Keys with the same reach share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.contents import EMPTY
from skilder_keys.domain.tool_sets import ToolSetView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skilder_keys.app.authorization.contents import Contents
    from skilder_keys.app.authorization.encoding import EncodedToolSet
    from skilder_keys.app.authorization.held_parts import HeldHat
    from skilder_keys.domain.ids import ToolId
    from skilder_keys.domain.tool_sets import ToolName, Variant

_SMALL = 1000
"""The most elements of a tool set that is encoded on the event loop, which takes about a millisecond."""
_SMALL_BYTES = 2**20
"""The most bytes of a tool set with texts that is encoded on the event loop."""
_GRANT_BYTES = 200
_SET_BYTES = 1000
_NO_TOOLS: Mapping[str, ToolId] = {}


class Servers:
    """The contents of a workspace, and of each MCP server what is in a tool set of its tools, made once for all keys.

    Attributes:
        contents: The contents of the workspace.
        charge: Called with the bytes by which the memory of tool sets grew.
    """

    __slots__ = ("_held", "charge", "contents")

    def __init__(self, contents: Contents, charge: Callable[[int], None]) -> None:
        self.contents = contents
        self.charge = charge
        self._held: dict[str, Contents] = {}

    def find(self, server: str | None) -> Contents | None:
        """Return the contents of a server, or of all for None; None if they are not made yet."""
        if server is None:
            return self.contents
        return self._held.get(server) if self.knows(server) else EMPTY

    def knows(self, server: str | None) -> bool:
        """Return whether a server has enabled tools. Of others nothing is kept, since anybody can make names up."""
        return server is None or server in self.contents.tools_by_name

    def is_small(self, server: str) -> bool:
        """Return whether the event loop may make the contents of a server."""
        return self.contents.is_small(server, _SMALL)

    def make(self, server: str) -> Contents:
        """Return the contents of a server. This may take long: use a thread unless they are small."""
        return self.contents.of_server(server)

    def keep(self, server: str, made: Contents) -> Contents:
        """Keep what `make` returned, and return it."""
        if server not in self._held:
            self._held[server] = made
            self.charge(made.weight)
        return made

    def clear(self) -> None:
        """Free the memory of the contents of all servers."""
        self._held.clear()


class SharedToolSet:
    """What all keys that reach the same hats may use. Each answer is serialised when it is needed first.

    Attributes:
        servers: The contents by MCP server, of which variants are made.
        variants: The variants that were made, by what they are.
        version: The digest of its content.
        reference: The second part of a grant that only names the tool set.
        encoded: The whole tool set; None until it is needed.
        reach: The second part of a grant to a caller without the tool set: the whole tool set, or `reference` if that
            is too large to be sent at once; None until it is encoded.
    """

    __slots__ = (
        "_contents", "_full", "_grants", "_hats", "_small", "encoded", "reach", "reference", "servers", "variants",
        "version",
    )  # fmt: skip

    def __init__(
        self, servers: Servers, hats: tuple[HeldHat, ...], contents: Contents | None = None, *, full: bool = False
    ) -> None:
        """Make a tool set.

        Args:
            servers: The contents by MCP server.
            hats: The hats that are reached, in order of id.
            contents: The contents of which the hats are; by default those of all servers.
            full: Whether the tool set has the texts of hats and skills.
        """
        self.servers = servers
        self._contents = servers.contents if contents is None else contents
        self._hats = hats
        self._full = full
        self._grants: dict[ToolId, bytes] = {}
        self._small: bool | None = None
        self.variants: dict[Variant, SharedToolSet] = {}
        self.version = encoding.tool_set_version(hat.full_digest if full else hat.digest for hat in hats)
        self.reference = encoding.tool_set_reference(self.version)
        self.encoded: EncodedToolSet | None = None
        self.reach: bytes | None = None
        servers.charge(_SET_BYTES)

    @property
    def is_small(self) -> bool:
        """Whether the event loop may encode it."""
        if self._small is None:
            self._small = self._contents.size(self._hats) <= _SMALL and (
                not self._full or self.least_bytes <= _SMALL_BYTES
            )
        return self._small

    @property
    def least_bytes(self) -> int:
        """How many bytes it has at least, encoded."""
        if self.encoded is not None:
            return len(self.encoded.field)
        return self._contents.least_bytes(self._hats, full=self._full)

    def encode(self) -> EncodedToolSet:
        """Return the whole tool set, encoded. This may take long: use a thread unless it is small."""
        return self._contents.tool_set(self._hats, self.version, full=self._full)

    def keep(self, encoded: EncodedToolSet) -> EncodedToolSet:
        """Keep what `encode` returned, and return it."""
        if self.encoded is None:
            self.encoded = encoded
            self.reach = encoded.field if len(encoded.field) <= encoding.MAX_TOOL_SET_BYTES else self.reference
            self.servers.charge(len(encoded.field))
        return encoded

    def server_of(self, tool_id: ToolId) -> str | None:
        """Return the MCP server of an enabled tool of the workspace, reached or not; None if there is no such tool."""
        return self._contents.server_of(tool_id)

    def grant(self, tool_id: ToolId) -> bytes | None:
        """Return the second part of a grant of one tool, serialised; None if the tool is not reached."""
        field = self._grants.get(tool_id)
        if field is None:
            field = self._contents.grant(self._hats, self.version, tool_id)
            if field is not None:
                self._grants[tool_id] = field
                self.servers.charge(_GRANT_BYTES + len(field))
        return field

    def id_of(self, name: ToolName) -> ToolId | None:
        """Return the id of an enabled tool of the workspace, reached or not; None if there is no such tool."""
        return self._contents.tools_by_name.get(name.mcp_server, _NO_TOOLS).get(name.name)

    def grant_by_name(self, name: ToolName) -> bytes | None:
        """Return what `grant` returns for the tool with a name."""
        tool_id = self.id_of(name)
        return None if tool_id is None else self.grant(tool_id)

    def variant(self, variant: Variant, contents: Contents) -> SharedToolSet:
        """Return a variant of this whole tool set. Keep it, unless nobody has tools on its MCP server.

        Args:
            variant: What it is.
            contents: The contents of its MCP server.
        """
        found = self.variants.get(variant)
        if found is not None:
            return found
        if not self.servers.knows(variant.mcp_server):
            return SharedToolSet(_NOTHING, ())
        hats = self._hats
        if contents is not self._contents:
            hats = tuple(contents.hats[hat.id] for hat in hats if hat.id in contents.hats)
        made = SharedToolSet(self.servers, hats, contents, full=variant.view is ToolSetView.FULL)
        self.variants[variant] = made
        return made


_NOTHING = Servers(EMPTY, lambda _: None)
"""The contents of an MCP server without tools."""
