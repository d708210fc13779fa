"""Who may do what: every role with every kind of key, and every caller with every ability."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING

import pytest

from skilder_keys.domain.access import Ability, Actor, Caller, CallerRole, Origin
from skilder_keys.domain.errors import (
    ActorNotAllowedError,
    ActorNotMemberError,
    ActorRequiredError,
    CallerNotAllowedError,
    KeysError,
)
from skilder_keys.domain.ids import RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyFilter
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.keys import Key, KeyState, Revocation
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace import MemberRole
from tests.support.plain_keys import plain_key

if TYPE_CHECKING:
    from collections.abc import Callable

ACME, ADA, BOB = WorkspaceId("acme"), UserId("ada"), UserId("bob")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROLES = [MemberRole.ADMIN, MemberRole.EDITOR, MemberRole.VIEWER, None]
# A key's type and user, as ada sees them: shared, her own, somebody else's, a runtime's.
WORKSPACE = (KeyType.WORKSPACE, None)
OWN = (KeyType.USER, ADA)
FOREIGN = (KeyType.USER, BOB)
RUNTIME = (KeyType.RUNTIME, None)
KINDS = [WORKSPACE, OWN, FOREIGN, RUNTIME]
CASES = list(product(ROLES, KINDS))


def outcome(role: MemberRole | None, ask: Callable[[Actor], None]) -> type[KeysError] | None:
    """Return the error that ada gets when she has this role, or None where she may."""
    try:
        ask(Actor(ADA, role))
    except KeysError as error:
        return type(error)
    return None


def expected(role: MemberRole | None, *, allowed: bool) -> type[KeysError] | None:
    """Return the error that is due. Somebody who is not a member always gets that error first."""
    if role is None:
        return ActorNotMemberError
    return None if allowed else ActorNotAllowedError


def made(kind: tuple[KeyType, UserId | None], revocation: Revocation | None = None) -> Key:
    """Make a key that ada issued. Having issued it does not make it hers."""
    runtime = RuntimeId("rt-1") if kind == RUNTIME else None
    return plain_key(
        type=kind[0],
        user_id=kind[1],
        runtime_id=runtime,
        created_by=Principal(PrincipalKind.USER, ADA),
        revocation=revocation,
        user_is_member=True,
    )


@pytest.mark.parametrize(("role", "kind"), CASES)
def test_who_may_issue_which_keys(role: MemberRole | None, kind: tuple[KeyType, UserId | None]) -> None:
    """Admins issue workspace keys, members their own user keys; nobody issues runtime keys or keys of others."""
    allowed = (role, kind) in {
        (MemberRole.ADMIN, WORKSPACE),
        (MemberRole.ADMIN, OWN),
        (MemberRole.EDITOR, OWN),
        (MemberRole.VIEWER, OWN),
    }
    order = KeySpec(kind[0], ACME, kind[1], RuntimeId("rt-1") if kind == RUNTIME else None, "a key", (), ())
    assert outcome(role, lambda actor: actor.require_issue(order)) is expected(role, allowed=allowed)


@pytest.mark.parametrize(("role", "kind"), CASES)
@pytest.mark.parametrize("revocation", [None, Revocation(NOW, Principal(PrincipalKind.USER, ADA), "")])
def test_who_may_see_and_revoke_which_keys(
    role: MemberRole | None, kind: tuple[KeyType, UserId | None], revocation: Revocation | None
) -> None:
    """Admins see and revoke every key, members only their own user keys."""
    allowed = role is MemberRole.ADMIN or kind == OWN
    key = made(kind, revocation)
    assert outcome(role, lambda actor: actor.require_key(key)) is expected(role, allowed=allowed)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("user_ids", "own"), [(None, (ADA,)), ((ADA,), (ADA,)), ((BOB, ADA), (ADA,)), ((BOB,), ()), ((), ())]
)
@pytest.mark.parametrize("types", [None, tuple(KeyType)])
def test_who_sees_which_keys(
    role: MemberRole | None,
    user_ids: tuple[UserId, ...] | None,
    own: tuple[UserId, ...],
    types: tuple[KeyType, ...] | None,
) -> None:
    """Admins see any keys, members only their own, whatever the filter is. Those who are no members get an error."""
    wanted = KeyFilter(ACME, types=types, states=(KeyState.ACTIVE,), user_ids=user_ids, unused_since=NOW)
    if role is None:
        with pytest.raises(ActorNotMemberError):
            Actor(ADA, role).visible(wanted)
        return
    narrowed = wanted if role is MemberRole.ADMIN else replace(wanted, user_ids=own)
    assert Actor(ADA, role).visible(wanted) == narrowed


@pytest.mark.parametrize("role", ROLES)
def test_only_admins_change_a_workspace(role: MemberRole | None) -> None:
    """An admin may change the workspace; every other role is refused."""
    assert outcome(role, Actor.require_admin) is expected(role, allowed=role is MemberRole.ADMIN)


@pytest.mark.parametrize(("role", "ability"), list(product(CallerRole, Ability)))
def test_what_each_caller_may_do(role: CallerRole, ability: Ability) -> None:
    """A console manages keys and workspaces, an auditor sees them, services and runtimes authorize.

    Only a runtime has a key of its own.
    """
    reads = {Ability.KEYS_READ, Ability.CATALOG_READ, Ability.ACTIVITY_READ, Ability.AUDIT_READ}
    allowed = {
        CallerRole.OPERATOR: set(Ability) - {Ability.ROTATE_OWN},
        CallerRole.AUDITOR: reads,
        CallerRole.CONSOLE: reads | {Ability.KEYS_WRITE, Ability.CATALOG_WRITE},
        CallerRole.SERVICE: {Ability.AUTHORIZE},
        CallerRole.RUNTIME: {Ability.AUTHORIZE, Ability.ROTATE_OWN},
    }
    caller = Caller("it", role)
    if ability in allowed[role]:
        caller.require(ability)
    else:
        with pytest.raises(CallerNotAllowedError) as caught:
            caller.require(ability)
        roles = ", ".join(each.value for each in CallerRole if ability in allowed[each])
        assert str(caught.value) == (
            f"A caller with the role {role.value!r} may not {ability.value}; these roles may: {roles}."
        )


@pytest.mark.parametrize("role", CallerRole)
def test_a_console_must_name_an_actor(role: CallerRole) -> None:
    """Every other role may act for itself."""
    caller = Caller("it", role)
    caller.require_actor("ada")
    if role is CallerRole.CONSOLE:
        with pytest.raises(ActorRequiredError):
            caller.require_actor("")
    else:
        caller.require_actor("")


def test_the_principal_of_a_change_is_the_actor_or_the_caller() -> None:
    """The acting person, or the caller where there is no person."""
    console = Caller("console", CallerRole.CONSOLE)
    assert Origin(console, ADA, "ipv4:127.0.0.1:1").principal == Principal(PrincipalKind.USER, "ada")
    assert Origin(console, None, "ipv4:127.0.0.1:1").principal == Principal(PrincipalKind.CALLER, "console")
