"""What the commands show: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from google.protobuf.json_format import MessageToDict

from skilder.keys.v1 import authorization_service_pb2, catalog_service_pb2, key_pb2, workspace_pb2
from skilder_keys.cli.table import Column, Table, write_fields
from skilder_keys.cli.text import UNSAFE, visible
from skilder_keys.yaml_files.scalars import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp


class EnumType(Protocol):
    """An enum of the generated code."""

    def Name(self, number: Any) -> str:  # noqa: ANN401, N802
        """Answers a value's name."""

    def Value(self, name: str) -> Any:  # noqa: ANN401, N802
        """Answers the value with a name, or raises ValueError."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON, with the API's own field names.")]


def as_dict(message: Message) -> dict[str, Any]:
    """Answers a message with its field names as in the .proto files."""
    return MessageToDict(message, preserving_proto_field_name=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON document to standard output. In its texts, what could act on a terminal is escaped, as JSON may."""
    print_line(_json(value))


def _json(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=not _is_unicode())
    return UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def print_yaml(value: dict[str, Any]) -> None:
    """Print a YAML document to standard output, escaped where printing it as it is could do harm or lose something."""
    text = dump(value)
    if not _is_unicode() or UNSAFE.search(text.replace("\n", "")):
        text = dump(value, escaped=True)
    sys.stdout.write(text)
    sys.stdout.flush()


def _is_unicode() -> bool:
    return sys.stdout.encoding.lower().replace("-", "").startswith("utf")


def print_line(text: str) -> None:
    """Print lines of our own to standard output; a text of others goes through `shown` first."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def shown(text: str) -> str:
    """Return a text as standard output can show it."""
    return visible(text, sys.stdout)


def print_list(
    name: str,
    columns: Sequence[Column | str],
    row: Callable[[Any], Sequence[str]],
    pages: Iterable[Iterable[Message]],
    *,
    json: bool,
) -> None:
    """Print messages page by page: as a table, or as one JSON document with a list of that name.

    A list that fails on the way stays without its end, so that nobody takes it for the whole.
    """
    if not json:
        table = Table(columns)
        for page in pages:
            table.page(map(row, page))
        table.end()
        return
    sys.stdout.write(f'{{\n  "{name}": [')
    separator = "\n    "
    for page in pages:
        for message in page:
            sys.stdout.write(separator + _json(as_dict(message)).replace("\n", "\n    "))
            separator = ",\n    "
        sys.stdout.flush()
    print_line(("]" if separator == "\n    " else "\n  ]") + "\n}")


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to standard output; see `Table`."""
    table = Table(columns)
    table.page(rows)
    table.end()


def print_fields(fields: Iterable[tuple[str, str]], *, stderr: bool = False) -> None:
    """Print named values, the empty ones left out; see `write_fields`."""
    write_fields(fields, sys.stderr if stderr else sys.stdout)


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


KEY_COLUMNS = (
    Column("key", whole=True),
    Column("hint", whole=True),
    Column("for", drop=3),
    "description",
    Column("state", whole=True, drop=1),
    Column("created", whole=True, drop=4),
    Column("last used", whole=True, drop=2),
)


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
