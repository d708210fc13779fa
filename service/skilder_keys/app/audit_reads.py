"""List the events of a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.key_steps import actor_in
from skilder_keys.app.page import Page
from skilder_keys.domain.errors import WorkspaceNotFoundError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.paging import listing
from skilder_keys.storage import audit_events, workspaces

if TYPE_CHECKING:
    from skilder_keys.domain.audit_events import AuditEvent, EventSelection
    from skilder_keys.domain.ids import UserId
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.storage.database import Connection, Database


class AuditReads:
    """Lists the events of a workspace.

    Every method raises UnavailableError if the database does not respond.
    """

    def __init__(self, database: Database, page_tokens: PageTokens) -> None:
        self._database = database
        self._page_tokens = page_tokens

    async def list(
        self, selection: EventSelection, *, page_size: int, page_token: str, actor: UserId | None
    ) -> Page[AuditEvent]:
        """Return a page of events, newest first. It may be short, or empty, although there are more.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
            ActorNotMemberError, ActorNotAllowedError: The actor is not an admin of the workspace.
        """
        violations = Violations()
        workspace_id = selection.workspace_id or WorkspaceId("")
        violations.identifier("workspace_id", workspace_id)
        selection.filter.check(violations)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        listed = listing("ListEvents", actor, selection)
        position = self._page_tokens.open(listed, page_token)
        async with self._database.snapshot() as snapshot:
            await require_auditor(snapshot, workspace_id, actor)
            events, end = await audit_events.list_page(
                snapshot,
                workspace_id,
                selection.filter,
                before=None if position is None else int(position),
                limit=limit,
            )
        return Page(events, None if end is None else str(end), listed, self._page_tokens)


async def require_auditor(connection: Connection, workspace_id: WorkspaceId, actor: UserId | None) -> None:
    """Require that a workspace exists, and that an actor, if there is one, may see its events.

    Raises:
        WorkspaceNotFoundError: There is no such workspace.
        ActorNotMemberError, ActorNotAllowedError: The actor is not an admin of the workspace.
    """
    if await workspaces.find(connection, workspace_id) is None:
        raise WorkspaceNotFoundError
    if actor is not None:
        (await actor_in(connection, workspace_id, actor)).require_auditor()
