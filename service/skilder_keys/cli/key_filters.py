"""The options that choose keys, for all commands that list, count or revoke keys."""

from __future__ import annotations

import functools
import inspect
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skilder.keys.v1 import common_pb2, key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.cli.durations import duration, moment
from skilder_keys.cli.enums import short_names
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.token import KeyType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import Enum

    from google.protobuf.descriptor import EnumDescriptor

_AHEAD = "in a length of time from now, such as 7d, or at a date"
_AGES = "a length of time ago, such as 90d, or at a date"


_PROGRAMS = {
    "caller": common_pb2.PRINCIPAL_KIND_CALLER,
    "runtime": common_pb2.PRINCIPAL_KIND_RUNTIME,
    "policy": common_pb2.PRINCIPAL_KIND_POLICY,
}


def past(text: str) -> datetime:
    """Return the time that is a length of time ago, or that is given as a date. Raises BadParameter for other texts."""
    return _time(text, -1)


def future(text: str) -> datetime:
    """Return the time that is a length of time ahead, or that is given as a date. Raises BadParameter for others."""
    return _time(text, 1)


def _time(text: str, direction: int) -> datetime:
    try:
        return datetime.now(UTC) + direction * duration(text)
    except typer.BadParameter:
        return moment(text)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None


Types = Annotated[
    list[KeyType] | None, typer.Option("--type", "-t", help="Only keys of this type; repeat it for several.")
]
States = Annotated[list[KeyState] | None, typer.Option(help="Only keys in this state; repeat it for several.")]
Users = Annotated[
    list[str] | None, typer.Option(metavar="<user>", help="Only keys of this user; repeat it for several.")
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(metavar="<runtime>", help="Only keys of this runtime instance; repeat it for several."),
]
CreatedBy = Annotated[
    str | None, typer.Option(metavar="<user>", help="Only keys that this user issued; caller:NAME for a caller.")
]
FamilyId = Annotated[
    str | None, typer.Option(metavar="<id>", help="Only keys of the family with this id, by rotation.")
]
Hint = Annotated[str | None, typer.Option(help="Only the key with this hint.")]
Search = Annotated[str | None, typer.Option(help="Only keys with all these words in their description.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label", "-l", metavar="<label>", help="Only keys with this label, NAME=VALUE or NAME; repeat it for several."
    ),
]
CreatedAfter = Annotated[
    datetime | None, typer.Option(parser=past, metavar="<time>", help=f"Only keys that were issued since: {_AGES}.")
]
CreatedBefore = Annotated[
    datetime | None, typer.Option(parser=past, metavar="<time>", help=f"Only keys that were issued before: {_AGES}.")
]
UnusedSince = Annotated[
    datetime | None, typer.Option(parser=past, metavar="<time>", help=f"Only keys that were not used since: {_AGES}.")
]
ExpiresAfter = Annotated[
    datetime | None, typer.Option(parser=future, metavar="<time>", help=f"Only keys that expire {_AHEAD} or later.")
]
ExpiresBefore = Annotated[
    datetime | None, typer.Option(parser=future, metavar="<time>", help=f"Only keys that expire before: {_AHEAD}.")
]
Unlimited = Annotated[
    list[KeyLimit] | None, typer.Option(help="Only keys without this limit; repeat it for keys without one of several.")
]
ViolatesPolicy = Annotated[
    bool, typer.Option("--violates-policy", help="Only keys that break a rule of the present key policy.")
]
Violates = Annotated[
    list[PolicyRule] | None,
    typer.Option(
        metavar="<rule>",
        help="Only keys that break this rule of the present key policy; repeat it for one of several. Rules:"
        f" {', '.join(each.value for each in PolicyRule)}.",
    ),
]


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose keys to a command, and pass it the resulting `KeyFilter` as its second argument."""
    service, _, *own = inspect.signature(function, eval_str=True).parameters.values()
    added = list(inspect.signature(_key_filter, eval_str=True).parameters.values())

    @functools.wraps(function)
    def command(connection: object, **values: Any) -> None:  # noqa: ANN401 - of as many types as there are options
        key_filter = _key_filter(**{each.name: values.pop(each.name) for each in added})
        function(connection, key_filter, **values)

    # Typer reads the options from a function's signature.
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *added)]
    command.__signature__ = inspect.Signature([service, *keywords])  # type: ignore[attr-defined]
    return command


def numbers(enum: EnumDescriptor, values: Iterable[Enum] | None) -> list[Any]:
    """Return the API's numbers of values that were given by their short names."""
    return [short_names(enum)[value.value] for value in values or ()]


def _key_filter(
    type_: Types = None,
    state: States = None,
    user: Users = None,
    runtime: Runtimes = None,
    created_by: CreatedBy = None,
    family_id: FamilyId = None,
    hint: Hint = None,
    search: Search = None,
    label: Labels = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    expires_after: ExpiresAfter = None,
    expires_before: ExpiresBefore = None,
    unused_since: UnusedSince = None,
    unlimited: Unlimited = None,
    violates_policy: ViolatesPolicy = False,
    violates: Violates = None,
) -> pb.KeyFilter:
    given = {"--created-by": created_by, "--family-id": family_id, "--hint": hint, "--search": search}
    for flag, value in given.items():
        if value is not None and not value.strip():
            raise fail(f"{flag} is empty: give a value, or leave it out", Exit.USAGE)
    key_filter = pb.KeyFilter(
        types=numbers(key_pb2.KeyType.DESCRIPTOR, type_),
        states=numbers(key_pb2.KeyState.DESCRIPTOR, state),
        user_ids=user,
        runtime_ids=runtime,
        created_by=principal(created_by),
        family_id=family_id or "",
        hint=hint or "",
        text=search or "",
        labels=label,
        unlimited=numbers(key_pb2.KeyLimit.DESCRIPTOR, unlimited),
        violating=numbers(key_pb2.PolicyRule.DESCRIPTOR, violates or (PolicyRule if violates_policy else None)),
    )
    times = {
        "created_after": created_after,
        "created_before": created_before,
        "expires_after": expires_after,
        "expires_before": expires_before,
        "unused_since": unused_since,
    }
    for name, time in times.items():
        if time is not None:
            getattr(key_filter, name).FromDatetime(time)
    return key_filter


def principal(text: str | None) -> common_pb2.Principal | None:
    """Return who did something: a user, or `caller:`, `runtime:` or `policy:` and an id; None for None."""
    if text is None:
        return None
    kind, _, name = text.partition(":")
    if kind in _PROGRAMS:
        return common_pb2.Principal(kind=_PROGRAMS[kind], id=name)
    return common_pb2.Principal(
        kind=common_pb2.PRINCIPAL_KIND_USER, id=text.removeprefix("user:") if kind == "user" else text
    )
