"""Requests as messages: from a path, a query and a body to the request of a method.

As for gRPC, nothing in a request is ignored. So Envoy's own transcoder does not do: it drops what it does not know in a
body, and a field that would have narrowed the request is lost.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor

from skilder_keys.rpc.errors import MalformedMessageError, UnknownFieldError
from skilder_keys.rpc.http_json.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

_PARAMETER = re.compile(r"\{([a-z_.]+)\}")
# The names of fields are not secret, and nothing else of a parser's error is shown: it may quote a token.
_UNKNOWN = re.compile(r'has no field named "([A-Za-z0-9_]{1,64})"')
_MAX_QUERY_FIELDS = 1_000
_MAX_DEPTH = 20


class WrongPathError(Exception):
    """No method has this path."""


class WrongVerbError(Exception):
    """A method has this path, but with another HTTP method.

    Attributes:
        allowed: The HTTP methods that the path has.
    """

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(", ".join(allowed))
        self.allowed = allowed


class _Route(NamedTuple):
    verb: str
    pattern: re.Pattern[str]
    names: list[str]
    method: MethodDescriptor
    has_body: bool


@dataclass(frozen=True, slots=True)
class Target:
    """The method that a request calls, and what its path says.

    Attributes:
        path: The method's path in gRPC.
        named: The values in the path, by the names of their fields, such as `workspace.id`.
    """

    method: MethodDescriptor
    path: str
    named: Mapping[str, str]
    has_body: bool

    def message(self, query: str, body: bytes) -> bytes:
        """Return the request as a serialised message.

        Raises:
            MalformedMessageError: It is not the JSON form of the method's request.
            UnknownFieldError: The request has a field that the message does not have.
        """
        if query if self.has_body else body:
            where = "no query: its fields are in the body" if self.has_body else "no body: its fields are in the query"
            raise MalformedMessageError(f"Such a request has {where}.")
        new = _class_of(self.method.input_type)()
        try:
            if self.has_body:
                _parse_body(body, new)
            else:
                json_format.ParseDict(_fields_of(query, self.method.input_type), new, max_recursion_depth=_MAX_DEPTH)
        except (json_format.ParseError, ValueError, RecursionError) as error:
            raise _refusal(error, self.method) from None
        for name, value in self.named.items():
            _put(new, name, value)
        return new.SerializeToString()

    def response(self, message: bytes) -> str:
        """Return a response in proto JSON."""
        return to_json(_class_of(self.method.output_type).FromString(message))


def to_json(message: Message) -> str:
    """Return a message in proto JSON, in one line."""
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False)


def find(verb: str, path: str) -> Target:
    """Return the method that an HTTP method and a path call. The path is as it was sent.

    Raises:
        WrongPathError, WrongVerbError: There is none.
    """
    allowed = []
    for route in _ROUTES:
        if match := route.pattern.fullmatch(path):
            if route.verb == verb:
                try:
                    values = [unquote(each, errors="strict") for each in match.groups()]
                except UnicodeDecodeError:
                    raise WrongPathError from None
                method = route.method
                grpc_path = f"/{method.containing_service.full_name}/{method.name}"
                return Target(method, grpc_path, dict(zip(route.names, values, strict=True)), route.has_body)
            allowed.append(route.verb)
    if allowed:
        raise WrongVerbError(sorted(set(allowed)))
    raise WrongPathError


def _routes() -> list[_Route]:
    pool = descriptor_pool.Default()
    routes = []
    for name, rules in RULES.items():
        for rule in rules:
            # A value has no colon, as that begins an action, such as `:revoke`.
            pieces = [re.escape(each) for each in _PARAMETER.sub("\0", rule.path).split("\0")]
            pattern = re.compile("([^/:?]+)".join(pieces))
            method = pool.FindMethodByName(name)
            routes.append(_Route(rule.verb.upper(), pattern, _PARAMETER.findall(rule.path), method, rule.has_body))
    return routes


def _class_of(descriptor: Descriptor) -> type[Message]:
    return message_factory.GetMessageClass(descriptor)


def _parse_body(body: bytes, message: Message) -> None:
    fields = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    if not isinstance(fields, dict):
        raise ValueError("not an object")  # noqa: TRY004  # as of the other mistakes in a body
    if b"\\u" in body:
        # Half of a surrogate pair is not text. As the name of an enum's value it makes protobuf fail.
        json.dumps(fields, ensure_ascii=False).encode("utf-8")
    json_format.ParseDict(fields, message, max_recursion_depth=_MAX_DEPTH)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, without null: a lookup that found nothing must not ask about everything."""
    fields = dict(pairs)
    if len(fields) != len(pairs) or None in fields.values():
        raise ValueError("a field twice, or null")
    return fields


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _refusal(error: Exception, method: MethodDescriptor) -> MalformedMessageError | UnknownFieldError:
    if unknown := _UNKNOWN.search(str(error)):
        return UnknownFieldError(
            f"This version of the service does not know the field {unknown[1]} of {method.input_type.name}. It may be "
            "older than the client: upgrade the service before its clients.",
            path=unknown[1],
            numbers="",
        )
    return MalformedMessageError(
        f"The request is not a {method.input_type.name} in JSON: it may not be valid JSON, have null, a field of "
        "another type, a field twice, or two fields that exclude each other."
    )


def _put(message: Message, path: str, value: str) -> None:
    """Set a field to what the path says. The body may say the same, but nothing else."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    oneof = message.DESCRIPTOR.fields_by_name[name].containing_oneof
    set_already = getattr(message, name) if oneof is None else oneof.name and message.WhichOneof(oneof.name)
    if set_already and (getattr(message, name) != value):
        raise MalformedMessageError(f"The path says {path}, and the body says something else.")
    setattr(message, name, value)


def _fields_of(query: str, descriptor: Descriptor) -> dict[str, Any]:
    """Return what a query says, as JSON. Names are as in JSON or in the contract; a dot leads into a message.

    Raises:
        ValueError: It is malformed, or has a field twice that is not a list.
    """
    fields: dict[str, Any] = {}
    for name, value in parse_qsl(
        query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=_MAX_QUERY_FIELDS
    ):
        _add(fields, name.split("."), value, descriptor)
    return fields


def _add(fields: dict[str, Any], path: list[str], value: str, descriptor: Descriptor) -> None:
    name, *rest = path
    field = descriptor.fields_by_camelcase_name.get(name) or descriptor.fields_by_name.get(name)
    if field is None:
        raise ValueError(f'has no field named "{name}"')
    of_google = field.message_type is not None and field.message_type.full_name.startswith("google.protobuf.")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries = fields.setdefault(field.name, {})
        if not rest or (key := ".".join(rest)) in entries:
            raise ValueError("a map without a key, or with one twice")
        entries[key] = value
    elif field.message_type is not None and not of_google and not field.is_repeated:
        if not rest:
            raise ValueError("a message has its fields after a dot")
        _add(fields.setdefault(field.name, {}), rest, value, field.message_type)
    elif rest or (field.message_type is not None and field.is_repeated):
        raise ValueError("no such field")
    elif field.is_repeated:
        fields.setdefault(field.name, []).append(_scalar(field, value))
    elif field.name in fields:
        raise ValueError("a field twice")
    else:
        fields[field.name] = _scalar(field, value)


def _scalar(field: FieldDescriptor, value: str) -> str | bool:
    if field.type != FieldDescriptor.TYPE_BOOL:
        return value
    if value not in {"true", "false"}:
        raise ValueError("neither true nor false")
    return value == "true"


_ROUTES = _routes()
