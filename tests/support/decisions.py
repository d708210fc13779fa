"""A query for each kind of decision that Authorize makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.token import KeyType
from tests.support.calls import part
from tests.support.fleet import ORIGIN
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from tests.support.fleet import Process


async def kinds_of_decisions(of: Process) -> dict[str, AuthorizeQuery]:
    """Return a query for each kind of decision."""
    whole = (await of.issue())[1]
    version = (await of.ask(whole)).granted.tool_set.version
    revoked, revoked_token = await of.issue()
    await of.revoke(revoked)
    _, gone = await of.issue(KeyType.USER, user_id="bob")
    without_bob = small_workspace()
    without_bob.members.remove(part(without_bob.members, "bob"))
    await of.apply(without_bob)
    globex: Any = "globex"
    await of.apply(small_workspace(globex))
    _, deleted = await of.issue(workspace_id=globex)
    await of.workspaces.delete(globex, None, ORIGIN)
    return {
        "all": AuthorizeQuery(whole),
        "described": AuthorizeQuery((await of.issue(description="\N{ROBOT FACE} " * 60))[1]),
        "of a user": AuthorizeQuery((await of.issue(KeyType.USER, user_id="ada"))[1]),
        "of a runtime": AuthorizeQuery((await of.issue(KeyType.RUNTIME))[1]),
        "limited": AuthorizeQuery((await of.issue(hat_ids=("everyone",)))[1]),
        "stale version": AuthorizeQuery(whole, None, "x" * 32),
        "current version": AuthorizeQuery(whole, None, version),
        "tool": AuthorizeQuery(whole, ToolId("slack.history")),
        "tool, with a version": AuthorizeQuery(whole, ToolId("slack.history"), version),
        "tool out of reach": AuthorizeQuery(whole, ToolId("git.push")),
        "tool that is none": AuthorizeQuery(whole, ToolId("nothing.like.it")),
        "revoked": AuthorizeQuery(revoked_token),
        "revoked, tool": AuthorizeQuery(revoked_token, ToolId("web.search")),
        "member removed": AuthorizeQuery(gone, None, version),
        "workspace gone": AuthorizeQuery(deleted),
    }
