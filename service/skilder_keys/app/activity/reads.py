"""List what keys were used for, and sum it up over time. Counts are read in one state of the database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from skilder_keys.app.enums import DENIAL_REASONS
from skilder_keys.app.key_steps import actor_in
from skilder_keys.app.page import Page
from skilder_keys.domain.activity import OTHER_TOOLS, Activity, Span, Usage, UsageSeries
from skilder_keys.domain.errors import (
    ActorNotAllowedError,
    FieldViolation,
    InvalidRequestError,
    WorkspaceNotFoundError,
)
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import KeyId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.paging import listing
from skilder_keys.storage import activity_kept, workspaces
from skilder_keys.storage.activity_pages import Position, Range, position_of, read_page
from skilder_keys.storage.activity_search import OTHER, SETTINGS, search_for
from skilder_keys.storage.activity_unproven import UnprovenPosition, read_unproven
from skilder_keys.storage.activity_usage import MAX_FACTS, TooManyFactsError, read_usage

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.domain.activity import ActivityFilter, ActivityListing, Kept, UsageQuery
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection, Database

_REASONS: dict[int, DenialReason] = {number: reason for reason, number in DENIAL_REASONS.items()}
_NOTHING = UsageSeries("", ())
_TOO_MANY = FieldViolation(
    "filter.after",
    f"is too long ago: more than {MAX_FACTS:,} counts would have to be summed up. Ask for a shorter time or longer "
    "steps, or name a key or a user",
)


class ActivityReads:
    """Lists and sums up activity. Its methods raise UnavailableError if the database does not respond."""

    def __init__(self, database: Database, page_tokens: PageTokens, offload: Offload) -> None:
        """Make the use cases.

        Args:
            database: The database.
            page_tokens: Seals page tokens.
            offload: Where long work runs.
        """
        self._database = database
        self._page_tokens = page_tokens
        self._offload = offload

    async def list(
        self, listed: ActivityListing, *, page_size: int, page_token: str, actor: UserId | None
    ) -> tuple[Page[Activity], Kept]:
        """Return a page of activity, newest first, and what the service has of it.

        Of the activity that matches, an actor sees only what they may see.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
            ActorNotMemberError: The actor is not a member of the workspace.
            ActorNotAllowedError: An actor may not see the denials of tokens that proved no key.
        """
        violations = Violations()
        listed.filter.check(violations, unproven=listed.unproven)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        same = listing("ListActivity", actor, listed)
        position = self._page_tokens.open(same, page_token)
        if listed.unproven and actor is not None:
            raise ActorNotAllowedError(
                "Tokens that proved no key belong to no workspace, so no actor may see them: leave actor empty."
            )
        async with self._database.snapshot() as snapshot:
            visible = listed.filter if listed.unproven else await _visible(snapshot, listed.filter, actor)
            kept = await activity_kept.read(snapshot)
            if listed.unproven:
                found, end = await _unproven(snapshot, listed.filter, kept, position, limit)
            elif visible is not None:
                found, end = await _proven(snapshot, visible, kept, position, limit)
            else:
                found, end = [], None
        return Page(found, end, same, self._page_tokens), kept

    async def usage(self, query: UsageQuery, actor: UserId | None) -> Usage:
        """Return usage over time, of what an actor may see.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
            ActorNotMemberError: The actor is not a member of the workspace.
            ActivityRolledUpError: There are no counts of such short steps of that time any more.
        """
        violations = Violations()
        query.check(violations)
        violations.actor(actor)
        violations.raise_if_any()
        async with self._database.snapshot() as snapshot:
            visible = await _visible(snapshot, query.filter, actor)
            kept = await activity_kept.read(snapshot)
            start, end = query.window(kept)
            search = None if visible is None else await search_for(snapshot, visible, DENIAL_REASONS)
            summed = None
            if search is not None and start < end:
                await snapshot.execute(SETTINGS)
                steps = range(query.step.number(start), query.step.number(end))
                try:
                    summed = await read_usage(snapshot, search, query.step, steps, query.group_by, query.series)
                except TooManyFactsError:
                    raise InvalidRequestError(_TOO_MANY) from None
        series, rest = ((), None) if summed is None else await self._offload.run(summed.series)
        if query.group_by is None and not series:
            series = (_NOTHING,)
        return Usage(series, rest, kept.counted_until)


async def _visible(
    connection: Connection, activity_filter: ActivityFilter, actor: UserId | None
) -> ActivityFilter | None:
    """Return the filter for the activity that an actor may see; None if that is none."""
    workspace_id = activity_filter.workspace_id
    if await workspaces.find(connection, workspace_id) is None:
        raise WorkspaceNotFoundError(f"There is no workspace {workspace_id!r}.")
    if actor is None:
        return activity_filter
    return (await actor_in(connection, workspace_id, actor)).visible_activity(activity_filter)


async def _proven(
    connection: Connection, activity_filter: ActivityFilter, kept: Kept, position: str | None, limit: int
) -> tuple[list[Activity], str | None]:
    search = await search_for(connection, activity_filter, DENIAL_REASONS)
    if search is None:
        return [], None
    minutes = activity_filter.minutes(kept.now)
    oldest = {span: Span.MINUTE.number(since) for span, since in kept.oldest.items()}
    await connection.execute(SETTINGS)
    page = await read_page(
        connection,
        search,
        Range(minutes.start, minutes.stop, oldest),
        after=None if position is None else Position.parse(position),
        limit=limit + 1,
    )
    found = [_activity(row, activity_filter.workspace_id) for row in page.rows[:limit]]
    if len(page.rows) > limit:
        return found, found[-1].position
    return found, None if page.stopped is None else str(page.stopped)


async def _unproven(
    connection: Connection, activity_filter: ActivityFilter, kept: Kept, position: str | None, limit: int
) -> tuple[list[Activity], str | None]:
    await connection.execute(SETTINGS)
    page = await read_unproven(
        connection,
        activity_filter,
        DENIAL_REASONS,
        activity_filter.minutes(kept.now),
        after=None if position is None else UnprovenPosition.parse(position),
        limit=limit + 1,
    )
    found = [_denial(row) for row in page.rows[:limit]]
    if len(page.rows) > limit:
        return found, found[-1].position
    return found, None if page.stopped is None else str(page.stopped)


def _activity(row: asyncpg.Record, workspace_id: WorkspaceId) -> Activity:
    span = Span(row["length"] * Span.MINUTE.value)
    start = span.start(row["at"])
    tool_id = OTHER_TOOLS if row["tool"] == OTHER else row["tool_id"]
    return Activity(
        start_at=start,
        span=span,
        workspace_id=workspace_id,
        key_id=None if row["key_id"] is None else KeyId(row["key_id"]),
        user_id=None if row["user_id"] is None else UserId(row["user_id"]),
        tool_id=None if tool_id is None else ToolId(tool_id),
        caller=row["caller_name"] or "",
        denial_reason=_REASONS[row["outcome"]] if row["outcome"] else None,
        count=row["count"],
        first_at=start + timedelta(milliseconds=row["first_ms"]),
        last_at=start + timedelta(milliseconds=row["last_ms"]),
        last_source_ip=row["source_ip"] or "",
        hint="",
        position=str(position_of(row)),
    )


def _denial(row: asyncpg.Record) -> Activity:
    start = Span.MINUTE.start(row["at"])
    return Activity(
        start_at=start,
        span=Span.MINUTE,
        workspace_id=None,
        key_id=None,
        user_id=None,
        tool_id=None,
        caller=row["caller_name"] or "",
        denial_reason=_REASONS[row["outcome"]],
        count=row["count"],
        first_at=start + timedelta(milliseconds=row["first_ms"]),
        last_at=start + timedelta(milliseconds=row["last_ms"]),
        last_source_ip=row["source_ip"] or "",
        hint=row["hint"],
        position=str(UnprovenPosition(row["at"], row["caller"], row["outcome"], row["hint"])),
    )
