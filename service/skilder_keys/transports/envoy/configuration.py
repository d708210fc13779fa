"""Envoy's configuration: one listener, the fast methods in Envoy's process, and a cluster of one for all others."""

from __future__ import annotations

import json
import socket
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilder_keys.transports import connections
from skilder_keys.transports.forwarded import PEER_HEADER
from skilder_keys.transports.listening import ListenError, addresses_of

if TYPE_CHECKING:
    from skilder_keys.envoy_settings import EnvoySettings

FAST = "/skilder.keys.v1.AuthorizationService/"
"""The prefix of the paths of the fast methods, which Python serves in Envoy's process."""
JSON = "/v1/"
"""The prefix of the paths of requests with JSON, which Python serves in Envoy's process if the option says so."""
_STREAMS = (f"{FAST}ReadToolSet",)
"""The paths with this prefix that are not fast: their responses are streams, which grpcio serves."""
NOTICE_SECONDS = 1.0
"""How long a client may still send calls over a connection after Envoy has asked it to disconnect."""

_TYPES = "type.googleapis.com/envoy"
_FILTERS = f"{_TYPES}.extensions.filters.http"
_PYTHON = "python"
_AGE_JITTER_PERCENT = 10.0
_BUFFER_BYTES = 2**16
_HEADER_OVERHEAD_BYTES = 32  # per header, as RFC 9113 counts
# A client that needs more can open a second connection. A higher limit would mainly help attackers.
_MAX_STREAMS = 100
# How many bytes of a request Envoy accepts before they are read.
_STREAM_WINDOW_BYTES = 2**18
# How many bytes of a response Envoy accepts from the grpcio server before the client has read those before.
_RESPONSE_WINDOW_BYTES = 2**20
_UNLIMITED = 2**30
# While the database is unavailable, a gateway with short deadlines may cancel many calls of one connection at once.
_RESETS = {"premature_reset_total_stream_count": 10_000}
_CONNECTION_LIMIT = "envoy.resource_monitors.global_downstream_max_connections"


def admin_socket(folder: Path) -> Path:
    """Return the path of the socket of Envoy's admin interface."""
    return folder / "admin.sock"


def grpcio_socket(folder: Path) -> Path:
    """Return the path of the socket that Envoy forwards the calls of all other methods to."""
    return folder / "grpcio.sock"


def configuration(settings: EnvoySettings, folder: Path, application: str, fast: str = FAST) -> dict[str, Any]:
    """Return Envoy's bootstrap configuration, in its JSON form.

    Args:
        settings: The settings.
        folder: A folder for the sockets, which no other user can read.
        application: The ASGI application that serves the fast methods, as MODULE:NAME.
        fast: The prefix of the paths of the fast methods.

    Raises:
        ListenError: This machine has no address of the host.
    """
    first, *others = _addresses(settings.listen)
    listener = {
        "name": "grpc",
        "address": first,
        "additional_addresses": [{"address": each} for each in others],
        "enable_reuse_port": True,
        "per_connection_buffer_limit_bytes": settings.max_message_bytes + _BUFFER_BYTES,
        "filter_chains": [
            {
                **_tls(settings),
                "transport_socket_connect_timeout": _seconds(connections.HANDSHAKE_SECONDS),
                "filters": [_typed("http", _connections(settings, application, fast))],
            }
        ],
    }
    return {
        "admin": {"address": _pipe(admin_socket(folder))},
        "overload_manager": {"resource_monitors": [_typed(_CONNECTION_LIMIT, _connection_limit(settings))]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {"overload": _RESETS}}]},
        "static_resources": {"listeners": [listener], "clusters": [_cluster(grpcio_socket(folder))]},
    }


def python_module() -> str:
    """Return the file of pyvoy's module, which runs Python in Envoy.

    Raises:
        ModuleNotFoundError: It is not there.
    """
    package = find_spec("pyvoy")
    # Find the module without importing the package, which would load far more than a module for Envoy.
    found = package and PathFinder.find_spec("pyvoy._pyvoy", package.submodule_search_locations)
    if found is None or found.origin is None:
        raise ModuleNotFoundError("pyvoy has no module for Envoy")
    return found.origin


def _connection_limit(settings: EnvoySettings) -> dict[str, Any]:
    allowed = connections.allowed(settings.max_connections, settings.pool_size)
    kind = "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {"@type": f"{_TYPES}.{kind}", "max_active_downstream_connections": allowed}


def _addresses(listen: str) -> list[dict[str, Any]]:
    host, _, port = listen.rpartition(":")
    found = [
        {"socket_address": {"address": ip, "port_value": int(port), "ipv4_compat": ip == "::"}}
        for family, ip in addresses_of(host)
        if _can_bind(family, ip)
    ]
    if not found:
        raise ListenError(f"Cannot serve on {listen}: this machine has no such address")
    return found


def _can_bind(family: socket.AddressFamily, ip: str) -> bool:
    """Return whether this machine has an IP address: a name such as localhost may resolve to one that it lacks."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def _connections(settings: EnvoySettings, application: str, fast: str) -> dict[str, Any]:
    """Return how Envoy treats connections: with the same limits as grpcio's server."""
    age = settings.max_connection_age
    routes = _routes_with_json(fast) if settings.http_json else _routes(fast)
    return {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        # With JSON also HTTP/1.1, which Envoy tells by the first bytes of a connection.
        "codec_type": "AUTO" if settings.http_json else "HTTP2",
        "common_http_protocol_options": {
            "idle_timeout": _seconds(connections.IDLE_SECONDS),
            # As many headers as fit in the limit on metadata.
            "max_headers_count": connections.METADATA_BYTES // _HEADER_OVERHEAD_BYTES,
            "max_connection_duration": _seconds(age),
            "max_connection_duration_jitter": {"value": _AGE_JITTER_PERCENT},
        },
        "drain_timeout": _seconds(min(NOTICE_SECONDS, settings.drain_timeout)),
        "http2_protocol_options": {
            "max_concurrent_streams": _MAX_STREAMS,
            # One such frame of each call in a row is not a flood: behind a proxy, many clients share a connection.
            "max_consecutive_inbound_frames_with_empty_payload": _MAX_STREAMS,
            "initial_stream_window_size": _STREAM_WINDOW_BYTES,
            "initial_connection_window_size": 4 * _STREAM_WINDOW_BYTES,
            # A dead client is noticed within 80 s.
            "connection_keepalive": {"interval": _seconds(60), "timeout": _seconds(20)},
        },
        "max_request_headers_kb": connections.METADATA_BYTES // 1024,
        "request_headers_timeout": _seconds(connections.HANDSHAKE_SECONDS),
        "stream_idle_timeout": _seconds(0),  # a watch of the health service may send nothing for days
        # The methods get only what Envoy itself has found out about the client, never what a client's header claims.
        "use_remote_address": True,
        "skip_xff_append": True,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"cert": True},
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            _python(application),
            _typed("router", {"@type": f"{_FILTERS}.router.v3.Router", "suppress_envoy_headers": True}),
        ],
    }


def _routes(*prefixes: str) -> list[dict[str, Any]]:
    return [
        *(_forwarded({"path": path}) for path in _STREAMS),
        *(_served_by_python(prefix) for prefix in prefixes),
        _forwarded({"prefix": "/"}),
    ]


def _routes_with_json(fast: str) -> list[dict[str, Any]]:
    """Return the same routes, those of requests with JSON, and the response to what is neither."""
    *routes, last = _routes(fast, JSON)
    is_grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    last["match"]["headers"] = [is_grpc]
    return [*routes, last, {"match": {"prefix": "/"}, "direct_response": {"status": 404}}]


def _served_by_python(prefix: str) -> dict[str, Any]:
    return {
        "match": {"prefix": prefix},
        "typed_per_filter_config": {_PYTHON: {"@type": f"{_TYPES}.config.route.v3.FilterConfig", "config": {}}},
        # Envoy enforces the client's deadline, and limits it in no other way.
        "route": {
            "cluster": "grpcio",
            "timeout": _seconds(0),
            "max_stream_duration": {"grpc_timeout_header_max": _seconds(0)},
        },
    }


def _forwarded(match: dict[str, Any]) -> dict[str, Any]:
    """Return the route of calls that the grpcio server serves."""
    return {
        "match": match,
        "route": {"cluster": "grpcio", "timeout": _seconds(0)},
        "request_headers_to_add": [
            {
                "header": {"key": PEER_HEADER, "value": "%DOWNSTREAM_REMOTE_ADDRESS%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def _python(application: str) -> dict[str, Any]:
    """Return the filter that passes calls to the application. It is off unless a route enables it."""
    config = {"app": application, "interface": "asgi", "lifespan": True}
    module = {
        "@type": f"{_FILTERS}.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": {"module": {"local": {"filename": python_module()}}},
        "filter_name": "pyvoy",
        "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": json.dumps(config)},
    }
    return {**_typed(_PYTHON, module), "disabled": True}


def _tls(settings: EnvoySettings) -> dict[str, Any]:
    if settings.tls_cert is None or settings.tls_key is None:
        return {}
    certificate = {
        "certificate_chain": _file(settings.tls_cert),
        "private_key": _file(settings.tls_key),
    }
    protocols = ["h2", "http/1.1"] if settings.http_json else ["h2"]
    common: dict[str, Any] = {"tls_certificates": [certificate], "alpn_protocols": protocols}
    if settings.tls_client_ca is not None:
        common["validation_context"] = {"trusted_ca": _file(settings.tls_client_ca)}
    context = {
        "@type": f"{_TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
        "require_client_certificate": settings.tls_client_ca is not None,
    }
    return {"transport_socket": _typed("tls", context)}


def _cluster(path: Path) -> dict[str, Any]:
    options = f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"
    # All calls share a connection, so a call whose client does not read must not use up the connection's window.
    windows = {"initial_stream_window_size": _RESPONSE_WINDOW_BYTES, "initial_connection_window_size": _UNLIMITED}
    return {
        "name": "grpcio",
        "connect_timeout": _seconds(5),
        "load_assignment": {
            "cluster_name": "grpcio",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(path)}}]}],
        },
        # The grpcio server limits the number of calls, so Envoy must not.
        "circuit_breakers": {
            "thresholds": [dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), _UNLIMITED)]
        },
        "typed_extension_protocol_options": {
            options.rpartition("/")[2]: {"@type": options, "explicit_http_config": {"http2_protocol_options": windows}}
        },
    }


def _file(path: str) -> dict[str, Any]:
    return {"filename": str(Path(path).absolute())}


def _pipe(path: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(path), "mode": 0o600}}


def _typed(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": config}


def _seconds(number: float) -> str:
    return f"{number:.3f}s"
