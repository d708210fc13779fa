"""The options that choose activity, and the names of keys in what is shown of it."""

from __future__ import annotations

import functools
import inspect
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from skilder.keys.v1 import activity_service_pb2, authorization_service_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.cli.enums import short_names
from skilder_keys.cli.key_filters import past
from skilder_keys.domain.activity import Verdict
from skilder_keys.domain.denial import DenialReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder.keys.v1 import key_pb2

Reason = Enum("Reason", {each.name: each.name.lower() for each in DenialReason})  # type: ignore[misc]  # from the domain

OfUser = Annotated[str, typer.Option("--user", help="Only that of the keys of this user.")]
OfTool = Annotated[str, typer.Option("--tool", help="Only calls about this tool, by its id.")]
OfCaller = Annotated[str, typer.Option("--caller", help="Only calls of this caller, by its name in the callers file.")]
OfFamily = Annotated[str, typer.Option("--family-id", help="Only that of the family of keys with this id.")]
OfVerdict = Annotated[Verdict | None, typer.Option("--verdict", help="Only what was granted, or only what was denied.")]
OfReasons = Annotated[
    list[Reason] | None,
    typer.Option(
        "--reason",
        metavar="<reason>",
        help="Only what was denied for this reason; repeat it for several. Reasons:"
        f" {', '.join(each.name.lower() for each in DenialReason)}.",
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(parser=past, metavar="<time>", help="Only since: a length of time ago, such as 7d, or a date."),
]
Until = Annotated[
    datetime | None,
    typer.Option(parser=past, metavar="<time>", help="Only before: a length of time ago, such as 7d, or a date."),
]


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose activity to a command, and pass it the `ActivityFilter` as its second argument."""
    service, _, *own = inspect.signature(function, eval_str=True).parameters.values()
    added = list(inspect.signature(_activity_filter, eval_str=True).parameters.values())

    @functools.wraps(function)
    def command(connection: object, **values: Any) -> None:  # noqa: ANN401 - of as many types as there are options
        wanted = _activity_filter(**{each.name: values.pop(each.name) for each in added})
        function(connection, wanted, **values)

    # Typer reads the options from a function's signature.
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *added)]
    command.__signature__ = inspect.Signature([service, *keywords])  # type: ignore[attr-defined]
    return command


def _activity_filter(
    family_id: OfFamily = "",
    user: OfUser = "",
    tool: OfTool = "",
    caller: OfCaller = "",
    verdict: OfVerdict = None,
    reason: OfReasons = None,
    since: Since = None,
    until: Until = None,
) -> activity_service_pb2.ActivityFilter:
    verdicts = short_names(activity_service_pb2.Verdict.DESCRIPTOR)
    reasons = short_names(authorization_service_pb2.DenialReason.DESCRIPTOR)
    wanted = activity_service_pb2.ActivityFilter(
        family_id=family_id,
        user_id=user,
        tool_id=tool,
        caller=caller,
        verdict=0 if verdict is None else verdicts[verdict.value],  # type: ignore[arg-type]  # a plain number
        denial_reasons=[reasons[each.value] for each in reason or ()],  # type: ignore[misc]  # the same
    )
    if since is not None:
        wanted.after.FromDatetime(since)
    if until is not None:
        wanted.before.FromDatetime(until)
    return wanted


class KeyNames:
    """Looks keys up, each once, to show more of them than their ids."""

    def __init__(self, stub: Any, actor: str) -> None:  # noqa: ANN401 - stubs have no types
        self._stub = stub
        self._actor = actor
        self._known: dict[str, key_pb2.Key | None] = {}

    def find(self, key_id: str) -> key_pb2.Key | None:
        """Return a key; None if there is none any more."""
        if key_id and key_id not in self._known:
            try:
                found = self._stub.GetKey(pb.GetKeyRequest(key_id=key_id, actor=self._actor)).key
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                found = None
            self._known[key_id] = found
        return self._known.get(key_id)

    def hint(self, key_id: str) -> str:
        """Return the hint of a key."""
        found = self.find(key_id)
        return "-" if found is None else found.hint

    def description(self, key_id: str) -> str:
        """Return the description of a key."""
        found = self.find(key_id)
        return "-" if found is None else found.description
