"""envoy.service.auth.v3.Authorization, which Envoy's filter ext_authz calls."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import grpc

from skilder.envoy import auth_pb2 as pb
from skilder.envoy import core_pb2, type_pb2
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.rpc.gateway.request import GatewayRequest, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.rpc.gateway.gateway import Gateway
    from skilder_keys.rpc.gateway.request import Allowed
    from skilder_keys.rpc.pipeline import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["Authorization"]

MCP_SERVER = "mcp_server"
KEY_PARAMETER = "key_parameter"
IDENTITY_HEADERS, REFUSE = "identity_headers", "refuse"
_PARTIAL = "x-envoy-auth-partial-body"
_EXTENSIONS = "attributes.context_extensions"
_OVERWRITE = core_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


class EnvoyServicer:
    """Converts requests, decides, and converts the decisions."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Check(self, request: pb.CheckRequest, call: Call) -> pb.CheckResponse:  # noqa: N802
        """Decide about one HTTP request."""
        try:
            return _ok(await self._gateway.decide(gateway_request(request), call))
        except RefusedError as refused:
            return _denied(refused)


def gateway_request(request: pb.CheckRequest) -> GatewayRequest:
    """Return the HTTP request that a message describes.

    Raises:
        InvalidRequestError: The route's configuration says what this version does not know, or there is no request.
    """
    attributes = request.attributes
    http = attributes.request.http
    if not http.method or not http.path:
        raise InvalidRequestError(FieldViolation("attributes.request.http", "has no method or no path"))
    extensions = dict(attributes.context_extensions)
    mcp_server, key_parameter = extensions.pop(MCP_SERVER, None), extensions.pop(KEY_PARAMETER, None)
    identity_headers = extensions.pop(IDENTITY_HEADERS, None)
    if extensions or "" in (mcp_server, key_parameter) or identity_headers not in (None, REFUSE):
        # A misspelled name would leave tools unchecked.
        words = f'may have {MCP_SERVER}, {KEY_PARAMETER} and {IDENTITY_HEADERS} "{REFUSE}" only, with a value'
        raise InvalidRequestError(FieldViolation(_EXTENSIONS, words))
    headers = tuple(_headers(http))
    partial = [value.strip() for name, value in headers if name == _PARTIAL]
    return GatewayRequest(
        method=http.method,
        target=http.path,
        headers=headers,
        body=http.raw_body or http.body.encode(),
        is_whole=all(each == "false" for each in partial),
        source_ip=attributes.source.address.socket_address.address,
        mcp_server=mcp_server,
        key_parameter=key_parameter,
        refuses_identity=identity_headers is not None,
    )


def _headers(http: pb.AttributeContext.HttpRequest) -> Iterator[tuple[str, str]]:
    for name, value in http.headers.items():
        yield name.lower(), value
    for header in http.header_map.headers:
        yield header.key.lower(), header.value or header.raw_value.decode("latin-1")


def _ok(allowed: Allowed) -> pb.CheckResponse:
    headers = dict(allowed.headers)
    if allowed.target is not None:
        headers[":path"] = allowed.target
    response = pb.CheckResponse()
    response.status.code = grpc.StatusCode.OK.value[0]
    response.ok_response.headers.extend(_option(name, value) for name, value in headers.items())
    response.ok_response.headers_to_remove.extend(allowed.remove)
    return response


def _denied(refused: RefusedError) -> pb.CheckResponse:
    response = pb.CheckResponse()
    is_unknown = refused.status is HTTPStatus.UNAUTHORIZED
    code = grpc.StatusCode.UNAUTHENTICATED if is_unknown else grpc.StatusCode.PERMISSION_DENIED
    response.status.code = code.value[0]
    response.denied_response.status.code = type_pb2.StatusCode.ValueType(refused.status.value)
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    if refused.challenge is not None:
        headers["www-authenticate"] = refused.challenge
    response.denied_response.headers.extend(_option(name, value) for name, value in headers.items())
    response.denied_response.body = body_of(refused)
    return response


def body_of(refused: RefusedError) -> str:
    """Return the body of the response to a client whose request is refused."""
    return json.dumps({"error": refused.error or "invalid_request", "reason": refused.reason, "message": str(refused)})


def _option(name: str, value: str) -> core_pb2.HeaderValueOption:
    return core_pb2.HeaderValueOption(header=core_pb2.HeaderValue(key=name, value=value), append_action=_OVERWRITE)
