"""One response of each method as proto JSON, which is what a browser gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.docs import examples
from tests.support.calls import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message


def responses() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each method with its first example's response as proto JSON."""
    found = examples.load()
    for method in METHODS:
        (first, *_) = found.of(method)
        yield method, as_browsers_get_it(ParseDict(first.response, response_type(method)()))


def response_type(method: str) -> Any:
    """Return the class of a method's responses."""
    return message_factory.GetMessageClass(METHODS[method].output_type)


def as_browsers_get_it(message: Message) -> dict[str, Any]:
    """Return a message as proto JSON."""
    return MessageToDict(message)


def text() -> str:
    """Return the responses in Markdown."""
    return "\n\n".join(
        f"### {method.partition('/')[2]}\n\n```json\n{examples.as_json(shown)}\n```" for method, shown in responses()
    )
