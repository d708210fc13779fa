"""Print results: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from skilder.keys.v1 import common_pb2, key_pb2, key_service_pb2
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.table import Column, Table, write_fields
from skilder_keys.cli.text import UNSAFE, visible
from skilder_keys.yaml_files.scalars import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp


_IDLE = timedelta(days=30)
"""A key that was not used for so long may not be needed."""
_EXPIRING = timedelta(days=7)
"""A key that expires sooner needs a successor."""
_HOUR = timedelta(hours=1)
_USABLE = (key_pb2.KEY_STATE_ACTIVE, key_pb2.KEY_STATE_SUSPENDED)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, with the API's own field names.")]


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as a dict with the field names of the .proto files."""
    return MessageToDict(message, preserving_proto_field_name=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON document to standard output. Escape the characters in its texts that could control a terminal."""
    print_line(_json(value))


def print_json_line(value: dict[str, Any]) -> None:
    """Print a JSON document in one line to standard output, as `print_json` does."""
    print_line(_json(value, indent=None))


def _json(value: object, indent: int | None = 2) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=not _is_unicode())
    return UNSAFE.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def print_yaml(value: dict[str, Any]) -> None:
    """Print a YAML document to standard output. Escape it if it could control the terminal or lose characters."""
    text = dump(value)
    if not _is_unicode() or UNSAFE.search(text.replace("\n", "")):
        text = dump(value, escaped=True)
    sys.stdout.write(text)
    sys.stdout.flush()


def _is_unicode() -> bool:
    return sys.stdout.encoding.lower().replace("-", "").startswith("utf")


def print_line(text: str) -> None:
    """Print lines to standard output. Texts from outside must go through `shown` first."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def shown(text: str) -> str:
    """Return a text in a form that is safe to print to standard output."""
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

    If a page fails, the JSON document stays without its end, so that no program takes it for the whole list.
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
    """Print a table to standard output, as `Table` does."""
    table = Table(columns)
    table.page(rows)
    table.end()


def print_fields(fields: Iterable[tuple[str, str]], *, stderr: bool = False) -> None:
    """Print named values, without the empty ones, as `write_fields` does."""
    write_fields(fields, sys.stderr if stderr else sys.stdout)


def key_fields(key: key_pb2.Key) -> list[tuple[str, str]]:
    """Return a key as named values."""
    return [
        ("key", key.id),
        ("hint", key.hint),
        ("type", short_name(key_pb2.KeyType.DESCRIPTOR, key.type)),
        ("workspace", key.workspace_id),
        ("user", key.user_id),
        ("runtime", key.runtime_id),
        ("description", key.description),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(key.labels.items()))),
        ("hats", _hats(key)),
        ("networks", ", ".join(key.network_limit.networks)),
        ("state", short_name(key_pb2.KeyState.DESCRIPTOR, key.state)),
        ("created", f"{moment(key.created_at)} by {principal(key.created_by)}"),
        ("expires", moment(key.expires_at) if key.HasField("expires_at") else ""),
        ("last used", moment(key.last_used_at) if key.HasField("last_used_at") else "never"),
        ("last source", key.last_source_ip),
        ("changed", _changed(key)),
        (
            "suspended",
            f"{moment(key.suspended_at)} by {principal(key.suspended_by)}" if key.HasField("suspended_at") else "",
        ),
        ("why suspended", key.suspend_reason),
        ("follows", key.predecessor_id),
        ("followed by", key.successor_id),
        ("revoked", f"{moment(key.revoked_at)} by {principal(key.revoked_by)}" if key.HasField("revoked_at") else ""),
        ("reason", key.revoke_reason),
        ("breaks", ", ".join(short_name(key_pb2.PolicyRule.DESCRIPTOR, each) for each in key.violations)),
    ]


def print_key(key: key_pb2.Key, *, json: bool) -> None:
    """Print a key to standard output, as named values or as JSON."""
    if json:
        print_json(as_dict(key))
    else:
        print_fields(key_fields(key))


def _changed(key: key_pb2.Key) -> str:
    return f"{moment(key.updated_at)}, version {key.version}" if key.version > 1 else ""


def _hats(key: key_pb2.Key) -> str:
    if key.type == key_pb2.KEY_TYPE_RUNTIME:
        return ""
    return (", ".join(key.hat_limit.hat_ids) or "none") if key.HasField("hat_limit") else "all"


def principal(who: common_pb2.Principal) -> str:
    """Return the kind and the id, as a user may have the name of a caller."""
    return f"{short_name(common_pb2.PrincipalKind.DESCRIPTOR, who.kind)} {who.id}"


def key_row(key: key_pb2.Key) -> tuple[str, ...]:
    """Return a key as a row for KEY_COLUMNS."""
    return (
        key.id,
        key.hint,
        key.user_id or key.runtime_id or "-",
        key.description,
        short_name(key_pb2.KeyState.DESCRIPTOR, key.state),
        moment(key.created_at),
        moment(key.expires_at) if key.HasField("expires_at") else "never",
        moment(key.last_used_at) if key.HasField("last_used_at") else "never",
        ", ".join(attention(key, datetime.now(UTC))) or "-",
    )


def attention(key: key_pb2.Key, now: datetime) -> list[str]:
    """Return why somebody should look at a key, if there is a reason."""
    reasons = []
    left = key.expires_at.ToDatetime(tzinfo=UTC) - now if key.HasField("expires_at") else _EXPIRING
    if key.state == key_pb2.KEY_STATE_EXPIRED:
        reasons.append("expired")
    elif key.state in _USABLE and left < _EXPIRING:
        reasons.append(f"expires in {left.days} days" if left.days > 1 else f"expires in {left // _HOUR} hours")
    used_at = (key.last_used_at if key.HasField("last_used_at") else key.created_at).ToDatetime(tzinfo=UTC)
    if key.state in _USABLE and now - used_at >= _IDLE:
        reasons.append(f"idle for {(now - used_at).days} days")
    return reasons


KEY_COLUMNS = (
    Column("key", whole=True),
    Column("hint", whole=True),
    Column("for", drop=4),
    "description",
    Column("state", whole=True, drop=1),
    Column("created", whole=True, drop=6),
    Column("expires", whole=True, drop=5),
    Column("last used", whole=True, drop=3),
    Column("attention", drop=2),
)


def count_row(count: key_service_pb2.KeyCount) -> tuple[str, ...]:
    """Return a number of keys as a row for COUNT_COLUMNS."""
    return (
        short_name(key_pb2.KeyType.DESCRIPTOR, count.type),
        short_name(key_pb2.KeyState.DESCRIPTOR, count.state),
        str(count.count),
    )


COUNT_COLUMNS = ("type", "state", "keys")


def moment(timestamp: Timestamp) -> str:
    """Return a time in UTC, to the second."""
    return timestamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")
