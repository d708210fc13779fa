"""Find the tool that a request to an MCP server calls, by its JSON-RPC body over streamable HTTP.

What this reads must be what the MCP server reads. Where parsers differ, the request is refused: doubled names, names
in other case, other encodings, numbers that are no numbers, text after the end.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

from skilder_keys.rpc.gateway.request import RefusedError, bad_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.rpc.gateway.request import GatewayRequest

CALL = "tools/call"
METHODS = frozenset({
    *("initialize", "ping", "tools/list", "completion/complete", "logging/setLevel"),
    *("resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe"),
    *("prompts/list", "prompts/get", "tasks/get", "tasks/result", "tasks/list", "tasks/cancel"),
})  # fmt: skip
"""The methods of MCP that a client may call, besides CALL. A method of a later version may be another way to a tool."""
NOTIFICATIONS = frozenset({
    *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
    *("notifications/roots/list_changed", "notifications/tasks/status"),
})  # fmt: skip
"""The notifications of MCP that a client may send."""

MAX_DEPTH = 64
"""How deep objects and lists may be in each other."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # one that has no end goes to the end
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})
_TYPES = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})
_NAMES = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})


def called_tool(request: GatewayRequest) -> str | None:
    """Return the name of the tool that a request to an MCP server calls; None if it calls none.

    Raises:
        RefusedError: It cannot be known what the MCP server would do.
    """
    if not request.is_whole:
        message = "The body is longer than what the gateway sends along to be checked."
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_long", message)
    length = request.values("content-length")
    if len(length) > 1 or (length and (not _is_number(length[0]) or int(length[0]) != len(request.body))):
        raise bad_request("body_missing", "The gateway did not send the whole body along to be checked.")
    if request.method in _WITHOUT_BODY:
        if request.body or request.values("transfer-encoding"):
            raise bad_request("body_unexpected", "A request with this method has no body.")
        return None
    if request.method != "POST":
        raise bad_request("method_unknown", "An MCP server is called by GET, POST or DELETE.")
    _check_form(request)
    return _tool_of(_parsed(request.body))


def _check_form(request: GatewayRequest) -> None:
    kinds = [each.lower() for each in request.values("content-type")]
    if len(kinds) != 1 or kinds[0] not in _TYPES:
        raise bad_request("content_type", "The body must be application/json, in UTF-8.")
    if any(each.lower() != "identity" for each in request.values("content-encoding")):
        raise bad_request("content_encoding", "The body must not be compressed.")
    if not request.body:
        raise bad_request("body_missing", "The request has no body, or the gateway does not send it along.")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise bad_request("json", "The body is not valid UTF-8.") from None
    if _depth(body) > MAX_DEPTH:
        raise bad_request("json", f"The body has objects or lists in each other, more than {MAX_DEPTH} deep.")
    try:
        # The values of numbers are not needed, and to convert a long one takes long.
        parsed = json.loads(
            text, object_pairs_hook=_object, parse_int=_no_value, parse_float=_no_value, parse_constant=_no_number
        )
    except RefusedError:
        raise
    except (ValueError, RecursionError):
        raise bad_request("json", "The body is not valid JSON.") from None
    if isinstance(parsed, list):
        raise bad_request("batch", "The body is a batch: send its messages one by one.")
    if not isinstance(parsed, dict):
        raise bad_request("json_rpc", "The body is not a JSON-RPC message.")
    return parsed


class _Number:
    """A number, whatever its value."""


_NUMBER = _Number()


def _no_value(_text: str) -> _Number:
    return _NUMBER


def _no_number(text: str) -> NoReturn:
    raise bad_request("json", f"The body is not valid JSON: it has {text}.")


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise bad_request("json", "The body has an object with the same name twice.")
        found[name] = value
    return found


def _depth(body: bytes) -> int:
    """Return how deep objects and lists are in each other at most."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", body).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _tool_of(message: dict[str, Any]) -> str | None:
    """Return the name of the tool that a JSON-RPC message calls; None if it calls none."""
    _check_names(message, _NAMES)
    if message.get("jsonrpc") != "2.0":
        raise bad_request("json_rpc", 'The body is not a JSON-RPC message: "jsonrpc" is not "2.0".')
    has_id = "id" in message
    if has_id and not isinstance(message["id"], str | _Number):
        raise bad_request("json_rpc", "The id of the message is neither a string nor a number.")
    if "method" not in message:
        if not has_id or ("result" in message) == ("error" in message) or "params" in message:
            raise bad_request("json_rpc", "The message is neither a request nor a notification nor a response.")
        return None
    if "result" in message or "error" in message:
        raise bad_request("json_rpc", "The message is a request and a response at once.")
    method = message["method"]
    if not has_id:
        if not isinstance(method, str) or method not in NOTIFICATIONS:
            raise bad_request("notification", "This is no notification that an MCP client may send.")
        return None
    if method == CALL:
        return _name_of(message.get("params"))
    if not isinstance(method, str) or method not in METHODS:
        words = "This is no method of MCP that is let through."
        raise RefusedError(HTTPStatus.FORBIDDEN, "mcp_method", words, "insufficient_scope")
    return None


def _name_of(params: object) -> str:
    if not isinstance(params, dict):
        raise bad_request("json_rpc", "tools/call has no params.")
    _check_names(params, {"name", "arguments", "task", "_meta"})
    name = params.get("name")
    if not isinstance(name, str) or not name or not _is_unicode(name):
        raise bad_request("tool_name", "tools/call does not name a tool.")
    return name


def _check_names(found: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse names that differ from known ones in case alone: some parsers, such as Go's, take them for the same."""
    folded = {each.casefold() for each in known}
    for name in found:
        if name not in known and name.casefold() in folded:
            raise bad_request("json_rpc", "The message has a name in another case than JSON-RPC and MCP have it.")


def _is_unicode(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which JSON can escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(2**63))
