"""The tool that a request to an MCP server calls, and everything that could hide one."""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from typing import Any

import pytest

from skilder_keys.rpc.gateway.mcp import MAX_DEPTH, METHODS, NOTIFICATIONS, called_tool
from skilder_keys.rpc.gateway.request import GatewayRequest, RefusedError

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "send", "arguments": {"to": "ada"}}}
JSON = ("content-type", "application/json")


def request(body: Any, *headers: tuple[str, str], method: str = "POST", is_whole: bool = True) -> GatewayRequest:
    """Return a request with a body, which is text or made JSON."""
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return GatewayRequest(method, "/mcp", headers or (JSON,), content, is_whole=is_whole, mcp_server="slack")


def changed(**fields: Any) -> dict[str, Any]:
    """Return the call of a tool with other fields; None removes one."""
    return {name: value for name, value in (CALL | fields).items() if value is not None}


@pytest.mark.parametrize(
    "body",
    [
        CALL,
        changed(id="a"),
        changed(id=1.5),
        changed(params={"name": "send"}),
        changed(params={"name": "send", "_meta": {"progressToken": 1}, "task": {}}),
        " \r\n\t" + json.dumps(CALL) + "\n",
        json.dumps(CALL).replace("send", "\\u0073end"),
        json.dumps(CALL).replace('"name"', '"n\\u0061me"'),
        json.dumps(CALL).replace('"id": 1', f'"id": {"9" * 100_000}'),
        json.dumps(CALL).replace('"ada"', f"1e{'9' * 100_000}"),
        json.dumps(CALL).replace('"ada"', '"[[{{\\"[' + "[" * 1000 + '"'),
    ],
)
def test_a_call_names_its_tool(body: Any) -> None:
    """As the MCP server reads it."""
    assert called_tool(request(body)) == "send"


def test_a_number_costs_nothing() -> None:
    """Python refuses to convert as many digits."""
    assert sys.get_int_max_str_digits() < 100_000
    body = json.dumps(CALL).replace('"ada"', "9" * 100_000)
    assert called_tool(request(body)) == "send"


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=utf-8"]
)
def test_the_form_is_json(kind: str) -> None:
    """In UTF-8, however that is written, and not compressed."""
    assert called_tool(request(CALL, ("content-type", kind), ("content-encoding", "identity"))) == "send"


@pytest.mark.parametrize(
    "body",
    [
        *({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}} for method in METHODS),
        *({"jsonrpc": "2.0", "method": method} for method in NOTIFICATIONS),
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}},
    ],
)
def test_other_messages_call_no_tool(body: Any) -> None:
    """Other requests of MCP, its notifications, and the client's responses to the server."""
    assert called_tool(request(body)) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_methods_without_a_body_call_no_tool(method: str) -> None:
    """They open the stream of events, and end a session."""
    assert called_tool(request(b"", ("accept", "text/event-stream"), method=method)) is None
    assert called_tool(request(b"", ("content-length", "0"), method=method)) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([CALL], "batch"),
        ([], "batch"),
        (changed(id=None), "notification"),
        (json.dumps(CALL).replace('"id": 1', '"id": null'), "json_rpc"),
        (changed(id=True), "json_rpc"),
        (changed(id=[1]), "json_rpc"),
        (changed(jsonrpc="1.0"), "json_rpc"),
        (changed(jsonrpc=2.0), "json_rpc"),
        (changed(jsonrpc=None), "json_rpc"),
        (changed(result={}), "json_rpc"),
        (changed(method=None), "json_rpc"),
        (changed(method=None, params=None), "json_rpc"),
        (changed(method=None, params=None, result={}, error={}), "json_rpc"),
        (changed(Method="ping"), "json_rpc"),
        (changed(PARAMS={"name": "other"}), "json_rpc"),
        (CALL | {"param\u017f": {"name": "other"}}, "json_rpc"),
        (changed(params={"name": "send", "Name": "other"}), "json_rpc"),
        (changed(params=None), "json_rpc"),
        (changed(params=["send"]), "json_rpc"),
        (changed(method="tools/Call"), "mcp_method"),
        (changed(method="tools/call "), "mcp_method"),
        (changed(method="tools/execute"), "mcp_method"),
        (changed(method="notifications/initialized"), "mcp_method"),
        (changed(method=["tools/call"]), "mcp_method"),
        (changed(id=None, method="tools/list"), "notification"),
        (changed(id=None, method=["ping"]), "notification"),
        (changed(params={}), "tool_name"),
        (changed(params={"name": ""}), "tool_name"),
        (changed(params={"name": ["send"]}), "tool_name"),
        (changed(params={"name": 1}), "tool_name"),
        (json.dumps(changed(params={"name": "\ud800"})), "tool_name"),
        ("", "body_missing"),
        ("null", "json_rpc"),
        ('"tools/call"', "json_rpc"),
        ("1", "json_rpc"),
        ("{", "json"),
        (json.dumps(CALL)[:-1], "json"),
        (json.dumps(CALL) + "x", "json"),
        (json.dumps(CALL) + json.dumps(CALL), "json"),
        (json.dumps(CALL) + "\0", "json"),
        ("\ufeff" + json.dumps(CALL), "json"),
        (json.dumps(CALL).encode("utf-16"), "json"),
        (json.dumps(CALL).encode("utf-16-le"), "json"),
        (json.dumps(CALL).replace("send", "s\u00e9nd").encode("latin-1"), "json"),
        (json.dumps(CALL).replace('"', "'"), "json"),
        ('"' + '\\"' * 400_000, "json"),
        ('{"a":' * 150_000, "json"),
        (json.dumps(CALL)[:-1] + ",}", "json"),
        (json.dumps(CALL)[:-1] + ' /* a */ , "method": "ping"}', "json"),
        (json.dumps(CALL)[:-1] + ', "method": "ping"}', "json"),
        (json.dumps(CALL)[:-1] + ', "m\\u0065thod": "ping"}', "json"),
        (json.dumps(CALL).replace('"name": "send"', '"name": "other", "name": "send"'), "json"),
        (json.dumps(CALL).replace('"to": "ada"', '"to": 1, "to": 2'), "json"),
        (json.dumps(CALL).replace('"ada"', "NaN"), "json"),
        (json.dumps(CALL).replace('"ada"', "-Infinity"), "json"),
        (json.dumps(CALL).replace('"ada"', "01"), "json"),
        (json.dumps(CALL).replace("ada", "a\nb"), "json"),
        (json.dumps(CALL).replace('"ada"', "[" * MAX_DEPTH + "]" * MAX_DEPTH), "json"),
        (json.dumps(CALL).replace('"ada"', "[" * 100_000 + "]" * 100_000), "json"),
        (json.dumps(CALL).replace('"ada"', '["' + "]" * 1000 + '",' + "[" * 990 + "]" * 991), "json"),
    ],
)
def test_what_could_hide_a_tool_is_refused(body: Any, reason: str) -> None:
    """Whatever a parser that is less strict than this one would make of it."""
    with pytest.raises(RefusedError) as caught:
        called_tool(request(body))
    assert caught.value.reason == reason
    assert caught.value.status is (HTTPStatus.FORBIDDEN if reason == "mcp_method" else HTTPStatus.BAD_REQUEST)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("content-type", "text/plain")], "content_type"),
        ([("content-type", "application/json; charset=utf-16")], "content_type"),
        ([("content-type", "application/json, application/json")], "content_type"),
        ([JSON, JSON], "content_type"),
        ([("accept", "*/*")], "content_type"),
        ([JSON, ("content-encoding", "gzip")], "content_encoding"),
        ([JSON, ("content-encoding", "identity"), ("content-encoding", "br")], "content_encoding"),
        ([JSON, ("content-length", "9999")], "body_missing"),
        ([JSON, ("content-length", "1")], "body_missing"),
        ([JSON, ("content-length", "1,1")], "body_missing"),
        ([JSON, ("content-length", "-1")], "body_missing"),
        ([JSON, ("content-length", "9" * 10_000)], "body_missing"),
        ([JSON, ("content-length", "\u0661")], "body_missing"),
    ],
)
def test_another_form_is_refused(headers: list[tuple[str, str]], reason: str) -> None:
    """Also a body of which the gateway sent only a part."""
    with pytest.raises(RefusedError) as caught:
        called_tool(request(CALL, *headers))
    assert (caught.value.status, caught.value.reason) == (HTTPStatus.BAD_REQUEST, reason)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (request(CALL, method="PUT"), "method_unknown"),
        (request(CALL, method="post"), "method_unknown"),
        (request(b"", method="OPTIONS"), "method_unknown"),
        (request(CALL, method="GET"), "body_unexpected"),
        (request(b"", ("transfer-encoding", "chunked"), method="GET"), "body_unexpected"),
        (request(b"", ("content-length", "5"), method="GET"), "body_missing"),
        (request(CALL, is_whole=False), "body_too_long"),
    ],
)
def test_another_request_is_refused(odd: GatewayRequest, reason: str) -> None:
    """One that no MCP client sends, or that was not sent along whole."""
    with pytest.raises(RefusedError) as caught:
        called_tool(odd)
    assert caught.value.reason == reason
    assert (caught.value.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE) == (reason == "body_too_long")
