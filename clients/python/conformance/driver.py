"""Make the calls of the conformance cases with the blocking client or, given `aio`, with the one for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from datetime import timedelta
from typing import Any

from google.protobuf.json_format import ParseDict

from skilder_keys_client import AsyncClient, Client, Connection, Decision, Denied, Granted, Query, ServiceError
from skilder_keys_client.v1.authorization_service_pb2 import ToolSet, ToolSetView
from skilder_keys_client.v1.key_service_pb2 import IssueKeyRequest, ListKeysRequest


def query(args: dict[str, Any]) -> Query:
    """Return the query that arguments stand for."""
    tool = args.get("toolName")
    return Query(
        args["token"],
        tool_id=args.get("toolId"),
        tool=None if tool is None else (tool["mcpServer"], tool["name"]),
        mcp_server=args.get("mcpServer"),
        tool_set_version=args.get("toolSetVersion", ""),
        view=ToolSetView.Value(f"TOOL_SET_VIEW_{args.get('view', 'UNSPECIFIED')}"),
        source_ip=args.get("sourceIp", ""),
    )


async def call(client: Client | AsyncClient, method: str, args: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Make a call and return its result."""

    async def made(result: Any) -> Any:
        return await result if inspect.isawaitable(result) else result

    match method:
        case "authorize":
            return decision(await made(client.authorize(query(args), timeout=timeout)))
        case "batch_authorize":
            queries = [query(each) for each in args["queries"]]
            decisions = await made(client.batch_authorize(queries, timeout=timeout))
            return {"value": {"decisions": [decision(each) for each in decisions]}}
        case "read_tool_set":
            read = await made(client.read_tool_set(query(args), timeout=timeout))
            return decision(read) if isinstance(read, Denied) else {"value": tools(read)}
        case "list_keys":
            listed = client.list_keys(ParseDict(args, ListKeysRequest()), timeout=timeout)
            keys = list(listed) if isinstance(client, Client) else [each async for each in listed]
            return {"value": {"keyIds": [each.id for each in keys]}}
        case "issue_key":
            issued = await made(client.issue_key(ParseDict(args, IssueKeyRequest()), timeout=timeout))
            return {"value": {"keyId": issued.key.id, "tokenLength": len(issued.token)}}
        case _:
            raise ValueError(method)


def decision(decided: Decision) -> dict[str, Any]:
    """Return a decision as the cases have it."""
    if isinstance(decided, Denied):
        fields = {"reason": decided.reason, "number": decided.number, "message": decided.message}
        return {"denied": fields | {"keyId": decided.key_id}}
    return {"granted": grant(decided)}


def grant(granted: Granted) -> dict[str, Any]:
    """Return a grant as the cases have it."""
    key = granted.key
    shown: dict[str, Any] = {"keyId": key.id, "workspaceId": key.workspace_id, "userId": key.user_id}
    shown |= {"description": key.description, "toolSetVersion": granted.tool_set_version}
    if granted.tool is not None:
        shown["toolId"] = granted.tool.tool.id
    return shown | (tools(granted.tool_set) if granted.tool_set is not None else {})


def tools(tool_set: ToolSet) -> dict[str, Any]:
    """Return a tool set as the cases have it."""
    return {"toolIds": sorted(each.id for each in tool_set.tools), "toolSetVersion": tool_set.version}


def error(failed: ServiceError) -> dict[str, Any]:
    """Return an error as the cases have it."""
    wait = None if failed.retry_after is None else failed.retry_after // timedelta(milliseconds=1)
    return {
        "error": {"code": failed.code.name, "reason": failed.reason, "outage": failed.is_outage, "retryAfterMs": wait}
    }


async def main(kind: type[Client | AsyncClient]) -> None:
    """Read calls until the end of the input, and print their results."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        client = kind(Connection(asked["target"], token=asked["caller_token"], plaintext=True))
        try:
            result = await call(client, asked["method"], asked["args"], asked["timeout_ms"] / 1000)
        except ServiceError as failed:
            result = error(failed)
        closed = client.close()
        if closed is not None:
            await closed
        print(json.dumps({"id": asked["id"]} | result), flush=True)


asyncio.run(main(AsyncClient if "aio" in sys.argv[1:] else Client))
