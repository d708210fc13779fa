"""The contract as HTTP and JSON: an OpenAPI document, and the table of the paths."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import skilder_keys
from skilder_keys.rpc.http_json.rules import RULES
from tests.docs.contract import PACKAGE, enums, messages, services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.rpc.http_json.rules import Rule
    from tests.docs.contract import Field, Method, Service

_JSON = "application/json"
_SCALARS: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "format": "byte"},
    "int32": {"type": "integer", "format": "int32"},
    # JavaScript's numbers are exact only up to 2^53, so JSON has a string.
    "int64": {"type": "string", "format": "int64"},
    "string": {"type": "string"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "examples": ["3600s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["description,labels"]},
}
_STATUS = {
    "description": "A google.rpc.Status: why the call failed. It says nothing about a token.",
    "type": "object",
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "The code, as in google.rpc.Code."},
        "message": {"type": "string", "description": "Why, as a sentence for people."},
        "details": {
            "type": "array",
            "description": "A google.rpc.ErrorInfo with the reason, and others.",
            "items": {"type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}}},
        },
    },
}


def document() -> str:
    """Return the OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for service, method, rule in _operations():
        paths.setdefault(rule.path, {})[rule.verb] = _operation(service, method, rule)
    schemas = {name: _schema(name) for name in sorted(messages())} | {name: _enum(name) for name in sorted(enums())}
    text = json.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Skilder Keys", "version": skilder_keys.__version__},
            "security": [{"caller": []}],
            "tags": [{"name": each.name, "description": each.comment} for each in services()],
            "paths": dict(sorted(paths.items())),
            "components": {
                "securitySchemes": {"caller": {"type": "http", "scheme": "bearer"}},
                "schemas": dict(sorted(_used(schemas, paths).items())) | {"Status": _STATUS},
            },
        },
        indent=1,
        ensure_ascii=False,
    )
    return text + "\n"


def table() -> str:
    """Return the table of the paths."""
    rows = ["| request | method |", "|---|---|"]
    rows += [
        f"| `{rule.verb.upper()} {rule.path}` | [`{method.name}`](api.md#{method.name.lower()}) |"
        for _, method, rule in _operations()
    ]
    return "\n".join(rows)


def _operations() -> Iterator[tuple[Service, Method, Rule]]:
    for service in services():
        for method in service.methods:
            for rule in RULES.get(f"{PACKAGE}.{service.name}.{method.name}", ()):
                yield service, method, rule


def _operation(service: Service, method: Method, rule: Rule) -> dict[str, Any]:
    named = re.findall(r"\{([a-z_.]+)\}", rule.path)
    place = RULES[f"{PACKAGE}.{service.name}.{method.name}"].index(rule)
    parameters = [_parameter(name, "path", _field(method.request, name)) for name in named]
    if not rule.has_body:
        leaves = _leaves(method.request, "")
        parameters += [_parameter(name, "query", field) for name, field in leaves if name not in named]
    operation: dict[str, Any] = {
        "operationId": f"{method.name}{place + 1}" if place else method.name,
        "tags": [service.name],
        "description": method.comment,
        "parameters": parameters,
        "responses": {
            "200": {"description": messages()[method.response].comment, "content": _content(method.response)},
            "default": {"description": "The call failed.", "content": _content("Status")},
        },
    }
    if rule.has_body:
        operation["requestBody"] = {"required": True, "content": _content(method.request)}
    return operation


def _content(schema: str) -> dict[str, Any]:
    return {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str, place: str, field: Field) -> dict[str, Any]:
    # In a path the name is as in the contract; in a query, as in JSON.
    shown = name if place == "path" else _camel(name)
    return {
        "name": shown,
        "in": place,
        "required": place == "path",
        "description": field.comment,
        "schema": _property(field) if place == "query" else {"type": "string"},
    }


def _field(message: str, path: str) -> Field:
    name, _, rest = path.partition(".")
    field = next(each for each in messages()[message].fields if each.name == name)
    return _field(field.type, rest) if rest else field


def _leaves(message: str, prefix: str) -> Iterator[tuple[str, Field]]:
    """Return the fields that a query can have: those of messages inside by their paths."""
    for field in messages()[message].fields:
        if field.type in messages() and not field.label:
            yield from _leaves(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def _schema(name: str) -> dict[str, Any]:
    message = messages()[name]
    properties = {_camel(each.name): _property(each) | {"description": _comment(each)} for each in message.fields}
    # As for gRPC, a field that is not known is refused in a request, and may come in a response of a newer version.
    return {"type": "object", "description": message.comment, "properties": properties}


def _comment(field: Field) -> str:
    return f"{field.comment}\n\nOnly one of `{_camel(field.one_of)}`." if field.one_of else field.comment


def _property(field: Field) -> dict[str, Any]:
    if field.type.startswith("map<"):
        return {"type": "object", "additionalProperties": {"type": "string"}}
    kind = _SCALARS.get(field.type) or {"$ref": f"#/components/schemas/{field.type}"}
    return {"type": "array", "items": kind} if field.label == "repeated" else dict(kind)


def _enum(name: str) -> dict[str, Any]:
    enum = enums()[name]
    values = "\n".join(f"- `{each.name}`: {each.comment}" for each in enum.values)
    return {"type": "string", "description": f"{enum.comment}\n\n{values}", "enum": [each.name for each in enum.values]}


def _used(schemas: dict[str, dict[str, Any]], paths: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the schemas that the paths refer to, directly or not."""
    used: dict[str, dict[str, Any]] = {}
    waiting = set(re.findall(r'#/components/schemas/(\w+)"', json.dumps(paths))) - {"Status"}
    while waiting:
        name = waiting.pop()
        used[name] = schemas[name]
        waiting |= set(re.findall(r'#/components/schemas/(\w+)"', json.dumps(schemas[name]))) - used.keys()
    return used
