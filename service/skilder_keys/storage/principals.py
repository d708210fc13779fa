"""Who did something, as two columns: `…_kind` and `…_id`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.principal import Principal, PrincipalKind

if TYPE_CHECKING:
    import asyncpg

# Workers of earlier versions know users and callers only. A row with another kind would make them fail, also for the
# other keys that they read with it. So the others are written as callers whose names no caller can have.
_AS_CALLERS = {PrincipalKind.RUNTIME: "runtime:", PrincipalKind.POLICY: "policy:"}


def columns(principal: Principal) -> tuple[str, str]:
    """Return the kind and the id to write."""
    prefix = _AS_CALLERS.get(principal.kind)
    if prefix is None:
        return principal.kind.value, principal.id
    return PrincipalKind.CALLER.value, f"{prefix}{principal.id}"


def principal_in(row: asyncpg.Record, name: str) -> Principal:
    """Return the principal in the columns of a row that begin with a name."""
    kind, id_ = PrincipalKind(row[f"{name}_kind"]), row[f"{name}_id"]
    if kind is PrincipalKind.CALLER:
        for other, prefix in _AS_CALLERS.items():
            if id_.startswith(prefix):
                return Principal(other, id_.removeprefix(prefix))
    return Principal(kind, id_)
