"""An agent with a key: it prints the tools that it sees, and writes a note.

Usage: agent.py URL TOKEN_FILE
"""

import asyncio
import sys
from pathlib import Path

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, token: str) -> None:
    """List the tools, then call one, also if it is not in the list."""
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        print("sees:", [tool.name for tool in (await client.list_tools()).tools])
        try:
            result = await client.call_tool("notes_write", {"text": "call Ada"})
        except MCPError as error:
            print("refused:", error.data["reason"])
        else:
            print("ran:", result.content[0].text)


def reasons(error: BaseException) -> list[str]:
    """Return what went wrong in a session, which is a group of errors."""
    if isinstance(error, BaseExceptionGroup):
        return [reason for each in error.exceptions for reason in reasons(each)]
    return [str(error)]


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text("utf-8").strip()))
    except* (MCPError, httpx2.HTTPError) as errors:
        sys.exit(f"no session: {', '.join(reasons(errors))}")
