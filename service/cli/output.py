"""What the commands show: tables for people, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skilder.keys.v1 import authorization_service_pb2, catalog_service_pb2, key_pb2, workspace_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp


class EnumType(Protocol):
    """An enum of the generated code."""

    def Name(self, number: Any) -> str:  # noqa: ANN401, N802
        """Answers a value's name."""

    def Value(self, name: str) -> Any:  # noqa: ANN401, N802
        """Answers the value with a name, or raises ValueError."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the API has it.")]


def as_dict(message: Message) -> dict[str, Any]:
    """Answers a message with its field names as in the .proto files."""
    return MessageToDict(message, preserving_proto_field_name=True)


def print_json(value: dict[str, Any]) -> None:
    """Prints a JSON document to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table to standard output. Where that is no terminal, nothing is cut off to fit."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)


def print_fields(fields: Iterable[tuple[str, str]], *, stderr: bool = False) -> None:
    """Prints named values, the empty ones left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, Text(value))
    console(stderr=stderr).print(table)


def console(*, stderr: bool = False) -> Console:
    """Makes a console as wide as its terminal, or as wide as it takes where it is none."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=500)


def key_fields(key: key_pb2.Key) -> list[tuple[str, str]]:
    """Answers a key as named values."""
    return [
        ("key", key.id),
        ("hint", key.hint),
        ("type", short(key_pb2.KeyType, key.type)),
        ("workspace", key.workspace_id),
        ("user", key.user_id),
        ("runtime", key.runtime_id),
        ("description", key.description),
        ("hats", (", ".join(key.hat_ids) or "none any more") if key.limited_to_hats else ""),
        ("state", short(key_pb2.KeyState, key.state)),
        ("created", f"{moment(key.created_at)} by {key.created_by}"),
        ("last used", moment(key.last_used_at) if key.HasField("last_used_at") else "never"),
        ("revoked", f"{moment(key.revoked_at)} by {key.revoked_by}" if key.HasField("revoked_at") else ""),
        ("reason", key.revoke_reason),
    ]


def key_row(key: key_pb2.Key) -> tuple[str, ...]:
    """Answers a key as a row below KEY_COLUMNS."""
    return (
        key.id,
        key.hint,
        key.user_id or key.runtime_id or "-",
        key.description,
        short(key_pb2.KeyState, key.state),
        moment(key.created_at),
        moment(key.last_used_at) if key.HasField("last_used_at") else "never",
    )


KEY_COLUMNS = ("key", "hint", "for", "description", "state", "created", "last used")


def moment(timestamp: Timestamp) -> str:
    """Answers a time in UTC, to the second."""
    return timestamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")


def short(enum: EnumType, number: int) -> str:
    """Answers the name of an enum's value without the enum's, in lower case: KEY_TYPE_USER is `user`."""
    return enum.Name(number).removeprefix(_prefix(enum)).lower()


def number(enum: EnumType, name: str) -> Any:  # noqa: ANN401 - the enum's own number type
    """Answers the enum's value with a short name, or raises ValueError."""
    return enum.Value(_prefix(enum) + name.upper())


def _prefix(enum: EnumType) -> str:
    return enum.Name(0).removesuffix("UNSPECIFIED")


DENIAL_REASON = authorization_service_pb2.DenialReason
CHANGE_ACTION = catalog_service_pb2.ChangeAction
WORKSPACE_PART = catalog_service_pb2.WorkspacePart
MEMBER_ROLE = workspace_pb2.MemberRole
