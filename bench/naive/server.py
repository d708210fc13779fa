"""The application: `uvicorn bench.naive.server:application`, on the database in the environment.

It has the service's tables of workspaces, and one of its own for keys, with the SHA-256 of each token. Each call asks
the database who has the key and what it reaches, so every change counts at once, and nothing has to be forgotten.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import asynccontextmanager
from datetime import datetime  # noqa: TC003 - FastAPI reads annotations
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID  # noqa: TC003 - FastAPI reads annotations

import asyncpg
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_DATABASE_URL, _CALLER_SHA256, _POOL_SIZE = "SKILDER_BENCH_DATABASE_URL", "SKILDER_BENCH_CALLER_SHA256", 10

_REACHED = """
    SELECT naive_key.id, naive_key.workspace_id, naive_key.user_id, naive_key.revoked_at IS NOT NULL AS revoked,
           naive_key.user_id IS NOT NULL AND member.user_id IS NULL AS gone,
           workspace.deleted_at IS NOT NULL AS deleted,
           tool.id AS tool_id, tool.name, tool.mcp_server
    FROM naive_key
    JOIN workspace ON workspace.id = naive_key.workspace_id
    LEFT JOIN member ON (member.workspace_id, member.user_id) = (naive_key.workspace_id, naive_key.user_id)
    LEFT JOIN LATERAL (
        SELECT DISTINCT tool.id, tool.name, tool.mcp_server
        FROM hat
        JOIN hat_skill ON (hat_skill.workspace_id, hat_skill.hat_id) = (hat.workspace_id, hat.id)
        JOIN skill_tool ON (skill_tool.workspace_id, skill_tool.skill_id) = (hat.workspace_id, hat_skill.skill_id)
        JOIN tool ON (tool.workspace_id, tool.id) = (hat.workspace_id, skill_tool.tool_id)
        WHERE hat.workspace_id = naive_key.workspace_id
          AND NOT tool.disabled
          AND ($2::text IS NULL OR tool.id = $2::text)
          AND (NOT naive_key.limited_to_hats
               OR EXISTS (SELECT FROM key_hat WHERE (key_hat.key_id, key_hat.hat_id) = (naive_key.id, hat.id)))
          AND (naive_key.user_id IS NULL
               OR hat.audience = 'workspace'
               OR EXISTS (
                   WITH RECURSIVE above (id) AS (
                       SELECT team_id FROM team_member
                       WHERE (workspace_id, user_id) = (naive_key.workspace_id, naive_key.user_id)
                       UNION
                       SELECT team.parent_id FROM team JOIN above USING (id)
                       WHERE team.workspace_id = naive_key.workspace_id AND team.parent_id IS NOT NULL
                   )
                   SELECT FROM hat_team JOIN above ON above.id = hat_team.team_id
                   WHERE (hat_team.workspace_id, hat_team.hat_id) = (hat.workspace_id, hat.id)))
    ) AS tool ON true
    WHERE naive_key.sha256 = $1
"""
_ALL_REACHED = f"""
    SELECT asked.place, found.*
    FROM unnest($1::bytea[], $2::text[]) WITH ORDINALITY AS asked (sha256, tool_id, place)
    LEFT JOIN LATERAL ({_REACHED.replace("$1", "asked.sha256").replace("$2::text", "asked.tool_id")}) AS found ON true
    ORDER BY asked.place
"""  # noqa: S608 - both parts are constants
_REVOKE = "UPDATE naive_key SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL"
_PAGE = """
    SELECT id, workspace_id, user_id, description, created_at, revoked_at
    FROM naive_key WHERE workspace_id = $1 ORDER BY created_at DESC LIMIT 100
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


class Key(BaseModel):
    """A key in a list."""

    id: UUID
    workspace_id: str
    user_id: str | None
    description: str
    created_at: datetime
    revoked_at: datetime | None


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ[_DATABASE_URL], min_size=_POOL_SIZE, max_size=_POOL_SIZE) as pool:
        application.state.pool = pool
        yield


async def _require_caller(authorization: Annotated[str, Header()]) -> None:
    digest = _sha256(authorization.removeprefix("Bearer ")).hex()
    if not hmac.compare_digest(digest, os.environ[_CALLER_SHA256]):
        raise HTTPException(401)


application = FastAPI(lifespan=_lifespan, dependencies=[Depends(_require_caller)])


async def authorize(question: Question) -> Answer:
    """Return what the key of a token reaches."""
    rows = await application.state.pool.fetch(_REACHED, _sha256(question.token), question.tool_id)
    return _answer(rows, question)


async def authorize_batch(questions: list[Question]) -> list[Answer]:
    """Return what the keys of many tokens reach, from one statement."""
    tokens = [_sha256(each.token) for each in questions]
    rows = await application.state.pool.fetch(_ALL_REACHED, tokens, [each.tool_id for each in questions])
    groups = (list(group) for _, group in groupby(rows, itemgetter("place")))
    return [_answer(group, question) for group, question in zip(groups, questions, strict=True)]


async def revoke(key_id: UUID) -> None:
    """Revoke a key."""
    await application.state.pool.execute(_REVOKE, key_id)


async def list_keys(workspace_id: str) -> list[Key]:
    """Return the newest hundred keys of a workspace."""
    return [Key(**row) for row in await application.state.pool.fetch(_PAGE, workspace_id)]


def _answer(rows: Sequence[Any], question: Question) -> Answer:
    if not rows or rows[0]["id"] is None:
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


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


application.add_api_route("/authorize", authorize, methods=["POST"])
application.add_api_route("/authorize_batch", authorize_batch, methods=["POST"])
application.add_api_route("/keys/{key_id}/revoke", revoke, methods=["POST"])
application.add_api_route("/keys", list_keys, methods=["GET"])
