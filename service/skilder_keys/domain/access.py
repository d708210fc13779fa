"""Who may do what: callers by their role, and the people for whom they call by their role in the workspace."""

from dataclasses import dataclass, field
from enum import Enum

from skilder_keys.domain.activity import ActivityFilter
from skilder_keys.domain.errors import (
    ActorNotAllowedError,
    ActorNotMemberError,
    ActorRequiredError,
    CallerNotAllowedError,
    FieldViolation,
    ForeignWorkspaceError,
)
from skilder_keys.domain.ids import KeyId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyFilter
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.keys import Key
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace import MemberRole


class Ability(Enum):
    """An ability that a method requires of its caller. The value completes the sentence "The caller may not …"."""

    # The hash of Enum is slow, and every call looks abilities up. Members are compared by identity, so this is as good.
    __hash__ = object.__hash__

    KEYS_READ = "see keys"
    KEYS_WRITE = "issue and change keys"
    CATALOG_READ = "see workspaces"
    CATALOG_WRITE = "change workspaces"
    AUTHORIZE = "authorize tokens"
    ACTIVITY_READ = "see what keys were used for"
    AUDIT_READ = "see the audit trail"
    ROTATE_OWN = "rotate a key of its own"


class CallerRole(Enum):
    """The role of a caller, as the callers file gives it; a runtime instance has RUNTIME."""

    __hash__ = object.__hash__

    OPERATOR = "operator"
    AUDITOR = "auditor"
    CONSOLE = "console"
    SERVICE = "service"
    RUNTIME = "runtime"


RUNTIME_PREFIX = "runtime:"
"""How the name of a runtime instance as a caller begins. No name in the callers file has a colon."""

_ABILITIES = {
    CallerRole.OPERATOR: frozenset(Ability) - {Ability.ROTATE_OWN},  # it has no key
    CallerRole.AUDITOR: frozenset({Ability.KEYS_READ, Ability.CATALOG_READ, Ability.ACTIVITY_READ, Ability.AUDIT_READ}),
    CallerRole.CONSOLE: frozenset(
        {
            Ability.KEYS_READ,
            Ability.KEYS_WRITE,
            Ability.CATALOG_READ,
            Ability.CATALOG_WRITE,
            Ability.ACTIVITY_READ,
            Ability.AUDIT_READ,
        },
    ),
    CallerRole.SERVICE: frozenset({Ability.AUTHORIZE}),
    CallerRole.RUNTIME: frozenset({Ability.AUTHORIZE, Ability.ROTATE_OWN}),
}


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What a caller is limited to. A limit that is set and empty allows nothing.

    Attributes:
        workspaces: The only workspaces that it may see, change and authorize keys of; None for any.
        mcp_servers: The only MCP servers for whose tools it may authorize tokens; None for any.
    """

    workspaces: frozenset[WorkspaceId] | None = None
    mcp_servers: frozenset[str] | None = None

    def allow_workspace(self, workspace_id: WorkspaceId) -> bool:
        """Return whether the caller is allowed a workspace."""
        return self.workspaces is None or workspace_id in self.workspaces

    def allow_server(self, mcp_server: str) -> bool:
        """Return whether the caller is allowed an MCP server."""
        return self.mcp_servers is None or mcp_server in self.mcp_servers

    def require_workspace(self, workspace_id: WorkspaceId) -> None:
        """Raise ForeignWorkspaceError if the caller is limited to other workspaces."""
        if not self.allow_workspace(workspace_id):
            raise ForeignWorkspaceError


NO_LIMITS = CallerLimits()


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that calls the service.

    Attributes:
        name: Its name in the callers file; RUNTIME_PREFIX and the instance's id for a runtime instance.
        role: What decides about its abilities.
        limits: What it is limited to; its own workspace for a runtime instance.
        key_id: The key with which a runtime instance calls; None for the others.
    """

    name: str
    role: CallerRole
    limits: CallerLimits = NO_LIMITS
    key_id: KeyId | None = None

    def may(self, ability: Ability) -> bool:
        """Return whether the role has an ability."""
        return ability in _ABILITIES[self.role]

    def require(self, ability: Ability) -> None:
        """Raise CallerNotAllowedError if the role does not have an ability."""
        if not self.may(ability):
            roles = ", ".join(role.value for role, abilities in _ABILITIES.items() if ability in abilities)
            raise CallerNotAllowedError(
                f"A caller with the role {self.role.value!r} may not {ability.value}; these roles may: {roles}."
            )

    def require_actor(self, actor: str) -> None:
        """Raise ActorRequiredError if the caller names no actor, but acts only for people.

        So a console that loses the session of its user does not act with its own power.
        """
        if not actor and self.role is CallerRole.CONSOLE:
            raise ActorRequiredError(FieldViolation("actor", "is required: name the user for whom you make the call"))


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a change, for the audit trail.

    Attributes:
        caller: The program that calls.
        actor: The person on whose behalf the caller calls; None if it calls on its own behalf.
        peer: The network address of the caller, as gRPC reports it, e.g. `ipv4:127.0.0.1:41234`.
        audit_heads: Where the heads of the audit trail go after each of its commits: see `Database.change`.
    """

    caller: Caller
    actor: UserId | None
    peer: str
    audit_heads: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def principal(self) -> Principal:
        """The actor or, without one, the caller, which may be a runtime instance."""
        if self.actor is not None:
            return Principal(PrincipalKind.USER, self.actor)
        if self.caller.role is CallerRole.RUNTIME:
            return Principal(PrincipalKind.RUNTIME, self.caller.name.removeprefix(RUNTIME_PREFIX))
        return Principal(PrincipalKind.CALLER, self.caller.name)


@dataclass(frozen=True, slots=True)
class Actor:
    """A person on whose behalf a caller calls, and their role in one workspace.

    Each `require_…` raises ActorNotMemberError if the person is not a member, and ActorNotAllowedError if their role
    does not allow the request.

    Attributes:
        role: None if the person is not a member of the workspace.
    """

    user_id: UserId
    role: MemberRole | None

    def require_issue(self, spec: KeySpec) -> None:
        """Require what issuing a key takes: an admin for workspace keys, the user for user keys.

        Nobody issues a runtime key on behalf of a person.
        """
        self.require_member()
        if spec.type is KeyType.RUNTIME:
            raise ActorNotAllowedError("Only the platform issues runtime keys: leave actor empty.")
        if spec.type is KeyType.WORKSPACE and self.role is not MemberRole.ADMIN:
            raise ActorNotAllowedError("Only an admin of the workspace may issue its workspace keys.")
        if spec.type is KeyType.USER and spec.user_id != self.user_id:
            raise ActorNotAllowedError("The actor may issue user keys to themselves only: set user_id to the actor.")

    def require_rotation(self, key: Key) -> None:
        """Require what issuing a key like this one takes, since whoever rotates it gets the token of its successor."""
        self.require_member()
        if key.type is KeyType.RUNTIME:
            raise ActorNotAllowedError(
                "Only the platform rotates runtime keys, or a runtime its own: leave actor empty."
            )
        if key.type is KeyType.WORKSPACE and self.role is not MemberRole.ADMIN:
            raise ActorNotAllowedError("Only an admin of the workspace may rotate its workspace keys.")
        if key.type is KeyType.USER and key.user_id != self.user_id:
            raise ActorNotAllowedError("The actor may rotate their own user keys only.")

    def require_key(self, key: Key) -> None:
        """Require what seeing, suspending and revoking a key takes: an admin for any, a user for their own."""
        self.require_member()
        if self.role is not MemberRole.ADMIN and key.user_id != self.user_id:
            raise ActorNotAllowedError(
                "Only an admin of the workspace may see, suspend or revoke keys other than their own."
            )

    def require_resume(self, key: Key) -> None:
        """Require what resuming a key takes: an admin for any key; the user for their own that they suspended."""
        self.require_key(key)
        by = None if key.suspension is None else key.suspension.by
        if self.role is not MemberRole.ADMIN and by not in (None, Principal(PrincipalKind.USER, self.user_id)):
            raise ActorNotAllowedError("Only an admin of the workspace may resume a key that somebody else suspended.")

    def require_update(self, key: Key) -> None:
        """Require what changing a key takes: an admin for any, a user for their own, and nobody for runtime keys."""
        self.require_key(key)
        if key.type is KeyType.RUNTIME:
            raise ActorNotAllowedError("Only the platform changes runtime keys: leave actor empty.")

    def visible(self, key_filter: KeyFilter) -> KeyFilter:
        """Return the filter for those of the keys that the person may see: an admin all, others their own user keys.

        Raises:
            ActorNotMemberError: The person is not a member of the workspace.
        """
        self.require_member()
        return key_filter if self.role is MemberRole.ADMIN else key_filter.of_user(self.user_id)

    def visible_activity(self, activity: ActivityFilter) -> ActivityFilter | None:
        """Return the filter for that of the activity that the person may see; None if that is none.

        An admin sees all of it, others that of their own user keys.

        Raises:
            ActorNotMemberError: The person is not a member of the workspace.
        """
        self.require_member()
        return activity if self.role is MemberRole.ADMIN else activity.of_user(self.user_id)

    def require_admin(self) -> None:
        """Require an admin, who alone may change a workspace."""
        self.require_member()
        if self.role is not MemberRole.ADMIN:
            raise ActorNotAllowedError("Only an admin of the workspace may change it.")

    def require_auditor(self) -> None:
        """Require an admin, who alone may see the audit trail of a workspace."""
        self.require_member()
        if self.role is not MemberRole.ADMIN:
            raise ActorNotAllowedError("Only an admin of the workspace may see its audit trail.")

    def require_member(self) -> None:
        """Require a member, who may see the workspace."""
        if self.role is None:
            raise ActorNotMemberError
