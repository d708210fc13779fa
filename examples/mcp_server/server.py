"""An MCP server with two tools. A caller sees and runs those that its key reaches.

Usage: server.py TARGET TOKEN_FILE PORT, where the file holds this server's own token for Skilder Keys.
"""

import asyncio
import sys

import uvicorn
from mcp.server import MCPServer

from skilder_keys_client import AsyncClient, Connection
from skilder_keys_client.guards.mcp import McpGuard

server = MCPServer("notes", log_level="WARNING")
notes = ["buy milk"]


@server.tool(name="notes_read")
def read() -> str:
    """Return all notes."""
    return "; ".join(notes)


@server.tool(name="notes_write")
def write(text: str) -> str:
    """Write a note."""
    notes.append(text)
    return "written"


async def main(target: str, token_file: str, port: int) -> None:
    """Serve until the process is told to end."""
    async with AsyncClient(Connection(target, token_file=token_file, plaintext=True)) as client:
        app = McpGuard(client, mcp_server="notes").protect(server)
        await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
