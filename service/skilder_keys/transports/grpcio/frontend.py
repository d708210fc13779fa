"""The frontend of grpcio's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from skilder_keys.transports import connections
from skilder_keys.transports.grpcio.methods import Methods
from skilder_keys.transports.grpcio.public import PublicMethods
from skilder_keys.transports.listening import ListenError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from skilder_keys.config import Settings
    from skilder_keys.transports.frontend import Api

_AGE_GRACE_SECONDS = 5.0


class GrpcioFrontend:
    """grpcio's server on the network.

    Args:
        reuse_port: Whether other processes of this user may serve on the same port, if they set this too.
    """

    name = "grpcio"

    def __init__(self, *, reuse_port: bool) -> None:
        self._reuse_port = reuse_port
        self._server: grpc.aio.Server | None = None

    async def start(self, api: Api, settings: Settings) -> str:
        """Listen, as `Frontend.start` does."""
        self._server = new_server(api, settings, _options(settings, reuse_port=self._reuse_port))
        host, _, _ = settings.listen.rpartition(":")
        address = f"{host}:{_bind(self._server, settings)}"
        await self._server.start()
        return address

    async def stop(self, seconds: float) -> None:
        """Stop, as `Frontend.stop` does."""
        if self._server is not None:
            await self._server.stop(seconds)

    async def metrics(self) -> list[Metric]:
        """Return an empty list: grpcio has no metrics."""
        return []


def new_server(
    api: Api, settings: Settings, options: list[tuple[str, int]], *, behind_envoy: bool = False
) -> grpc.aio.Server:
    """Return a server with all methods. It has no port yet and is not started."""
    server = grpc.aio.server(options=[*options, ("grpc.max_receive_message_length", settings.max_message_bytes)])
    methods = Methods(api.methods, api.streams, api.calls, max_calls=settings.max_calls, behind_envoy=behind_envoy)
    server.add_generic_rpc_handlers((methods, PublicMethods(api.public, api.calls, behind_envoy=behind_envoy)))
    return server


def _options(settings: Settings, *, reuse_port: bool) -> list[tuple[str, int]]:
    return [
        # gRPC's default is on. Off, a second server on the same port fails instead of sharing the port by accident.
        ("grpc.so_reuseport", int(reuse_port)),
        # A client keeps its connection, and so its worker, as long as it can. A maximum age makes clients reconnect:
        # they spread over the workers, and a worker can hand over. gRPC varies the age of each connection at random by
        # a tenth, so that clients do not reconnect all at once. The grace period lets running calls finish.
        ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round((_longest_call(settings) + _AGE_GRACE_SECONDS) * 1000)),
        # Anybody may open connections and send nothing, so limit their number, and close them after some time.
        ("grpc.max_allowed_incoming_connections", connections.allowed(settings.max_connections, settings.pool_size)),
        ("grpc.server_handshake_timeout_ms", round(connections.HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_connection_idle_ms", round(connections.IDLE_SECONDS * 1000)),
        # Between its soft and its hard limit, gRPC rejects metadata at random, so set both to the same value.
        ("grpc.max_metadata_size", connections.METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", connections.METADATA_BYTES),
        # A client that needs more can open a second connection. A higher limit would mainly help attackers.
        ("grpc.max_concurrent_streams", 100),
        # A dead client is noticed within 80 s. A client that pings more often than every 10 s is disconnected.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


def _longest_call(settings: Settings) -> float:
    """Return how many seconds a call may take; a stream of events takes as long as a connection."""
    return max(settings.call_timeout, settings.max_connection_age)


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    try:
        if settings.tls_cert is None or settings.tls_key is None:
            return server.add_insecure_port(settings.listen)
        client_ca = settings.tls_client_ca
        credentials = grpc.ssl_server_credentials(
            [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
            root_certificates=None if client_ca is None else client_ca.read_bytes(),
            require_client_auth=client_ca is not None,
        )
        return server.add_secure_port(settings.listen, credentials)
    except (RuntimeError, OSError) as error:
        raise ListenError(f"Cannot serve on {settings.listen}: {error}") from error
