"""The reference of the API: every service, method, message, field and enum with its comment, and examples."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.docs import contract, examples, methods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docs.contract import Enum, Field, Message, Method
    from tests.docs.examples import Example, Examples

_WELL_KNOWN = "google.protobuf."
_WELL_KNOWN_URL = "https://protobuf.dev/reference/protobuf/google.protobuf/#"


def text() -> str:
    """Return the reference in Markdown."""
    return "\n\n".join(_paragraphs(examples.load()))


def _paragraphs(found: Examples) -> Iterator[str]:
    services, messages = contract.services(), contract.messages()
    yield _index()
    of_methods: set[str] = set()
    for service in services:
        yield from (f"### {service.name}", service.comment)
        for method in service.methods:
            of_methods |= {method.request, method.response}
            yield from _method(method, found.of(f"{service.name}/{method.name}"))
    yield "### Messages"
    for message in messages.values():
        if message.name not in of_methods:
            yield from _message(message, "####")
    yield "### Enums"
    for enum in contract.enums().values():
        yield from _enum(enum)


def _index() -> str:
    rows = ["| service | methods |", "|---|---|"]
    for service in contract.services():
        links = ", ".join(_link(method.name) for method in service.methods)
        rows.append(f"| {_link(service.name)} | {links} |")
    return "\n".join(rows)


def _method(method: Method, calls: list[Example]) -> Iterator[str]:
    yield from (f"#### {method.name}", method.comment)
    yield f"Ability: [`ABILITY_{method.ability}`](#ability). Send it again? {methods.RETRIES[method.level]}"
    for name in (method.request, method.response):
        yield from _message(contract.messages()[name], "#####")
    for call in calls:
        yield f"Example: {call.about}"
        if call.bearer:
            yield f"With `authorization: Bearer {call.bearer}`:"
        yield f"```json\n{examples.as_json(call.request)}\n```"
        yield "The response:"
        yield f"```json\n{examples.as_json(call.response)}\n```"


def _message(message: Message, heading: str) -> Iterator[str]:
    yield from (f"{heading} {message.name}", message.comment)
    if message.fields:
        rows = ["| field | type | |", "|---|---|---|"]
        rows += [f"| `{field.name}` | {_type(field)} | {_cell(field.comment)} |" for field in message.fields]
        yield "\n".join(rows)


def _enum(enum: Enum) -> Iterator[str]:
    yield from (f"#### {enum.name}", enum.comment)
    rows = ["| value | number | |", "|---|---|---|"]
    rows += [f"| `{value.name}` | {value.number} | {_cell(value.comment)} |" for value in enum.values]
    yield "\n".join(rows)


def _type(field: Field) -> str:
    words = [field.label] if field.label else []
    words.append(_type_name(field.type))
    if field.one_of:
        words.append(f"(one of `{field.one_of}`)")
    return " ".join(words)


def _type_name(name: str) -> str:
    if name in contract.messages() or name in contract.enums():
        return _link(name)
    short = name.removeprefix(_WELL_KNOWN)
    return f"`{name}`" if short == name else f"[`{short}`]({_WELL_KNOWN_URL}{_anchor(short)})"


def _anchor(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _link(heading: str) -> str:
    return f"[`{heading}`](#{heading.lower()})"


def _cell(comment: str) -> str:
    return comment.replace("|", r"\|").replace("\n\n", "<br>")
