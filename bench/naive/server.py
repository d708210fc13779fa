"""The application: `uvicorn bench.naive.server:application`, on the database in the environment.

It has the tables of the service, and one of its own with the SHA-256 of each token. Each call asks the database who has
the key and what it reaches, so every change counts at once, and nothing has to be forgotten.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_DATABASE_URL, _CALLER_SHA256, _POOL_SIZE = "SKILDER_BENCH_DATABASE_URL", "SKILDER_BENCH_CALLER_SHA256", 10

_REACHED = """
    SELECT key.id, key.workspace_id, key.user_id, key.revoked_at IS NOT NULL AS revoked,
           key.user_id IS NOT NULL AND member.user_id IS NULL AS gone, workspace.deleted_at IS NOT NULL AS deleted,
           tool.id AS tool_id, tool.name, tool.mcp_server
    FROM naive_key
    JOIN key ON key.id = naive_key.key_id
    JOIN workspace ON workspace.id = key.workspace_id
    LEFT JOIN member ON (member.workspace_id, member.user_id) = (key.workspace_id, key.user_id)
    LEFT JOIN LATERAL (
        SELECT DISTINCT tool.id, tool.name, tool.mcp_server
        FROM hat
        JOIN hat_skill ON (hat_skill.workspace_id, hat_skill.hat_id) = (hat.workspace_id, hat.id)
        JOIN skill_tool ON (skill_tool.workspace_id, skill_tool.skill_id) = (hat.workspace_id, hat_skill.skill_id)
        JOIN tool ON (tool.workspace_id, tool.id) = (hat.workspace_id, skill_tool.tool_id)
        WHERE hat.workspace_id = key.workspace_id
          AND NOT tool.disabled
          AND ($2::text IS NULL OR tool.id = $2)
          AND (NOT key.limited_to_hats
               OR EXISTS (SELECT FROM key_hat WHERE (key_hat.key_id, key_hat.hat_id) = (key.id, hat.id)))
          AND (key.user_id IS NULL
               OR hat.audience = 'workspace'
               OR EXISTS (
                   WITH RECURSIVE above (id) AS (
                       SELECT team_id FROM team_member
                       WHERE (workspace_id, user_id) = (key.workspace_id, key.user_id)
                       UNION
                       SELECT team.parent_id FROM team JOIN above USING (id)
                       WHERE team.workspace_id = key.workspace_id AND team.parent_id IS NOT NULL
                   )
                   SELECT FROM hat_team JOIN above ON above.id = hat_team.team_id
                   WHERE (hat_team.workspace_id, hat_team.hat_id) = (hat.workspace_id, hat.id)))
    ) AS tool ON true
    WHERE naive_key.digest = $1
"""


class Question(BaseModel):
    """A token, and the tool that an agent wants to call with it; without one, all tools are wanted."""

    token: str
    tool_id: str | None = None


class Tool(BaseModel):
    """A tool that a key reaches."""

    id: str
    name: str
    mcp_server: str


class Answer(BaseModel):
    """Whether the token is granted, and what it reaches."""

    granted: bool
    reason: str | None = None
    key_id: str | None = None
    workspace_id: str | None = None
    user_id: str | None = None
    tools: list[Tool] = []


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ[_DATABASE_URL], min_size=_POOL_SIZE, max_size=_POOL_SIZE) as pool:
        application.state.pool = pool
        yield


application = FastAPI(lifespan=_lifespan)


async def authorize(question: Question, authorization: Annotated[str, Header()]) -> Answer:
    """Return what the key of a token reaches."""
    digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
    if not hmac.compare_digest(digest, os.environ[_CALLER_SHA256]):
        raise HTTPException(401)
    token = hashlib.sha256(question.token.encode()).digest()
    rows: list[Any] = await application.state.pool.fetch(_REACHED, token, question.tool_id)
    if not rows:
        return Answer(granted=False, reason="UNKNOWN")
    key = rows[0]
    for reason, holds in (("REVOKED", "revoked"), ("WORKSPACE_GONE", "deleted"), ("MEMBER_REMOVED", "gone")):
        if key[holds]:
            return Answer(granted=False, reason=reason)
    tools = [Tool(id=row["tool_id"], name=row["name"], mcp_server=row["mcp_server"]) for row in rows if row["tool_id"]]
    if question.tool_id is not None and not tools:
        return Answer(granted=False, reason="TOOL_NOT_ALLOWED", key_id=str(key["id"]))
    return Answer(
        granted=True, key_id=str(key["id"]), workspace_id=key["workspace_id"], user_id=key["user_id"], tools=tools
    )


application.add_api_route("/authorize", authorize, methods=["POST"])
