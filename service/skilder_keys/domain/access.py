"""Who may do what: the callers by their role, the people on whose behalf they call by theirs."""

from dataclasses import dataclass
from enum import Enum

from skilder_keys.domain.errors import ActorNotAllowedError, ActorNotMemberError, CallerNotAllowedError
from skilder_keys.domain.fields import CALLER_PREFIX
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.keys import Key, KeyFilter, KeySpec
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace import MemberRole


class Ability(Enum):
    """What a method needs its caller to be allowed."""

    # As members are told apart; an Enum's own is slow, and this is asked in every call.
    __hash__ = object.__hash__

    KEYS = "look after keys"
    CATALOG = "look after workspaces"
    AUTHORIZE = "ask for authorization"


class CallerRole(Enum):
    """What a caller is."""

    __hash__ = object.__hash__

    OPERATOR = "operator"
    CONSOLE = "console"
    SERVICE = "service"
    RUNTIME = "runtime"


_ABILITIES = {
    CallerRole.OPERATOR: frozenset(Ability),
    CallerRole.CONSOLE: frozenset({Ability.KEYS, Ability.CATALOG}),
    CallerRole.SERVICE: frozenset({Ability.AUTHORIZE}),
    CallerRole.RUNTIME: frozenset({Ability.AUTHORIZE}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """A program that calls the service.

    Attributes:
        name: Its name in the callers file; `runtime:` and the instance's id for a runtime instance.
        workspace_id: The one workspace a runtime instance may ask about; None for any.
    """

    name: str
    role: CallerRole
    workspace_id: WorkspaceId | None = None

    def may(self, ability: Ability) -> bool:
        """Tells whether the role gives this ability."""
        return ability in _ABILITIES[self.role]

    def require(self, ability: Ability) -> None:
        """Raises CallerNotAllowedError where the role does not give this ability."""
        if not self.may(ability):
            raise CallerNotAllowedError(f"A caller with the role {self.role.value!r} may not {ability.value}.")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change comes from, for the audit trail.

    Attributes:
        actor: The person on whose behalf the caller calls; None where it calls on its own.
        peer: The network address of the caller, as gRPC tells it, e.g. `ipv4:127.0.0.1:41234`.
    """

    caller: Caller
    actor: UserId | None
    peer: str

    @property
    def name(self) -> str:
        """Who did it: the actor's id or, without one, `caller:NAME`."""
        return self.actor or f"{CALLER_PREFIX}{self.caller.name}"


@dataclass(frozen=True, slots=True)
class Actor:
    """A person, and what they are in the workspace at hand; `role` is None where they are not in it."""

    user_id: UserId
    role: MemberRole | None

    def require_issue(self, spec: KeySpec) -> None:
        """Admins issue workspace keys, a member their own user keys, nobody runtime keys."""
        self._require_member()
        if spec.type is KeyType.RUNTIME:
            raise ActorNotAllowedError("Runtime keys are issued by the platform, not on behalf of a person.")
        if spec.type is KeyType.WORKSPACE and self.role is not MemberRole.ADMIN:
            raise ActorNotAllowedError("Only an admin of the workspace may issue its workspace keys.")
        if spec.type is KeyType.USER and spec.user_id != self.user_id:
            raise ActorNotAllowedError("A user key may be issued to the actor only, not to somebody else.")

    def require_key(self, key: Key) -> None:
        """Admins see and revoke any key, a member their own user keys."""
        self._require_member()
        if self.role is not MemberRole.ADMIN and key.user_id != self.user_id:
            raise ActorNotAllowedError("Only an admin of the workspace may see or revoke keys other than their own.")

    def require_list(self, wanted: KeyFilter) -> None:
        """Admins list any keys, a member their own user keys."""
        self._require_member()
        if self.role is not MemberRole.ADMIN and wanted.user_id != self.user_id:
            raise ActorNotAllowedError(
                "Only an admin of the workspace may list keys other than their own: set user_id to the actor."
            )

    def require_admin(self) -> None:
        """Only admins change a workspace."""
        self._require_member()
        if self.role is not MemberRole.ADMIN:
            raise ActorNotAllowedError("Only an admin of the workspace may change it.")

    def _require_member(self) -> None:
        if self.role is None:
            raise ActorNotMemberError
