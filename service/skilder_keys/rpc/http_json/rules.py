"""Which HTTP requests are which methods, in the form of google.api.http.

The rules are not in the protos, so that the stubs of no language need Google's annotations. A token is in the body
or in `authorization`, never in a path or a query, which end up in the logs of proxies.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

_PACKAGE = "skilder.keys.v1."


class Rule(NamedTuple):
    """An HTTP method and a path, whose `{field}` parts are fields of the request.

    All other fields of the request are in the body or, for GET and DELETE, in the query.
    """

    verb: Literal["get", "put", "post", "patch", "delete"]
    path: str

    @property
    def has_body(self) -> bool:
        """Return whether the request's fields are in the body."""
        return self.verb in {"put", "post", "patch"}


_WORKSPACE = "/v1/workspaces/{workspace_id}"
_KEY = "/v1/keys/{key_id}"

RULES: dict[str, tuple[Rule, ...]] = {
    f"{_PACKAGE}AuthorizationService.Authorize": (Rule("post", "/v1/authorize"),),
    f"{_PACKAGE}AuthorizationService.BatchAuthorize": (Rule("post", "/v1/authorize:batch"),),
    f"{_PACKAGE}KeyService.IssueKey": (Rule("post", f"{_WORKSPACE}/keys"),),
    f"{_PACKAGE}KeyService.ListKeys": (Rule("get", f"{_WORKSPACE}/keys"),),
    f"{_PACKAGE}KeyService.CountKeys": (Rule("get", f"{_WORKSPACE}/keys:count"),),
    f"{_PACKAGE}KeyService.RevokeKeys": (Rule("post", f"{_WORKSPACE}/keys:revoke"),),
    f"{_PACKAGE}KeyService.ListToolUsers": (Rule("get", f"{_WORKSPACE}/toolUsers"),),
    f"{_PACKAGE}KeyService.GetKey": (Rule("get", _KEY),),
    f"{_PACKAGE}KeyService.UpdateKey": (Rule("patch", "/v1/keys/{key.id}"),),
    f"{_PACKAGE}KeyService.RevokeKey": (Rule("post", f"{_KEY}:revoke"), Rule("post", "/v1/keys:revoke")),
    f"{_PACKAGE}KeyService.SuspendKey": (Rule("post", f"{_KEY}:suspend"),),
    f"{_PACKAGE}KeyService.ResumeKey": (Rule("post", f"{_KEY}:resume"),),
    f"{_PACKAGE}KeyService.RotateKey": (Rule("post", f"{_KEY}:rotate"),),
    f"{_PACKAGE}KeyService.ExplainKey": (Rule("get", f"{_KEY}:explain"),),
    f"{_PACKAGE}RuntimeService.RotateOwnKey": (Rule("post", "/v1/runtimeKey:rotate"),),
    f"{_PACKAGE}CatalogService.ApplyWorkspace": (Rule("put", "/v1/workspaces/{workspace.id}"),),
    f"{_PACKAGE}CatalogService.UpdateWorkspace": (Rule("patch", _WORKSPACE),),
    f"{_PACKAGE}CatalogService.GetWorkspace": (Rule("get", _WORKSPACE),),
    f"{_PACKAGE}CatalogService.ListWorkspaces": (Rule("get", "/v1/workspaces"),),
    f"{_PACKAGE}CatalogService.DeleteWorkspace": (Rule("delete", _WORKSPACE),),
    f"{_PACKAGE}CatalogService.ListMembers": (Rule("get", f"{_WORKSPACE}/members"),),
    f"{_PACKAGE}CatalogService.ListHats": (Rule("get", f"{_WORKSPACE}/hats"),),
    f"{_PACKAGE}CatalogService.ListTools": (Rule("get", f"{_WORKSPACE}/tools"),),
    f"{_PACKAGE}ActivityService.ListActivity": (Rule("get", f"{_WORKSPACE}/activity"), Rule("get", "/v1/activity")),
    f"{_PACKAGE}ActivityService.GetUsage": (Rule("get", f"{_WORKSPACE}/usage"),),
    f"{_PACKAGE}AuditService.ListEvents": (Rule("get", f"{_WORKSPACE}/events"),),
}
"""The rules of each method, by its full name. Methods that respond with a stream have none."""
