"""What somebody may do with a key now."""

from dataclasses import replace

from skilder_keys.domain.access import Actor
from skilder_keys.domain.errors import ActorNotAllowedError, ActorNotMemberError
from skilder_keys.domain.keys import Key, KeyAction, KeyState


def with_actions(key: Key, actor: Actor | None) -> Key:
    """Return a key with what an actor may do with it; None is for a caller that acts for itself."""
    possible = _possible(key)
    return replace(key, actions=tuple(each for each in possible if actor is None or _is_allowed(each, key, actor)))


def _possible(key: Key) -> list[KeyAction]:
    """Return what can be done with a key and would change it, whoever does it."""
    if key.revocation is not None:
        return []
    possible = [] if key.workspace_deleted else [KeyAction.UPDATE]
    if key.state is KeyState.ACTIVE and not key.has_live_successor:
        possible.append(KeyAction.ROTATE)
    return [*possible, KeyAction.SUSPEND if key.suspension is None else KeyAction.RESUME, KeyAction.REVOKE]


def _is_allowed(action: KeyAction, key: Key, actor: Actor) -> bool:
    require = {
        KeyAction.UPDATE: actor.require_update,
        KeyAction.ROTATE: actor.require_rotation,
        KeyAction.SUSPEND: actor.require_key,
        KeyAction.RESUME: actor.require_resume,
        KeyAction.REVOKE: actor.require_key,
    }[action]
    try:
        require(key)
    except (ActorNotAllowedError, ActorNotMemberError):
        return False
    return True
