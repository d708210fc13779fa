"""The table of what each role of a caller may call, from the roles' abilities and the methods' options."""

from __future__ import annotations

from skilder_keys.domain.access import Ability, Caller, CallerRole
from tests.docs.contract import services


def table() -> str:
    """Return the table: each role with the methods that it may call."""
    methods = [method for service in services() for method in service.methods]
    rows = ["| role | may call | abilities |", "|---|---|---|"]
    for role in CallerRole:
        caller = Caller("", role)
        allowed = [method.name for method in methods if caller.may(Ability[method.ability])]
        others = [method.name for method in methods if method.name not in allowed]
        names = _list(allowed) if len(others) > 1 else f"everything but {_list(others)}" if others else "everything"
        abilities = ", ".join(f"`{ability.name}`" for ability in Ability if caller.may(ability))
        title = "a runtime instance" if role is CallerRole.RUNTIME else f"`{role.value}`"
        rows.append(f"| {title} | {names} | {abilities} |")
    return "\n".join(rows)


def _list(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
