"""Every option of the service, in one place.

Each field is a flag of `skilder-keys serve` and a variable `SKILDER_KEYS_*`; `cli.options` makes both from it.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from skilder_keys.envoy_settings import EnvoySettings
from skilder_keys.storage.url import DEFAULT_SCHEMA, DatabaseUrl, DatabaseUrlError

DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_DATA_DIR = Path("data")
OPERATOR_TOKEN_FILE = "operator-token"  # noqa: S105 - a file's name

# Without surrogates: Python has one for each byte of an argument that is not UTF-8, and cannot print it.
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\ud800-\udfff]+):(?P<port>[0-9]{1,5})")


class Settings(BaseModel):
    """The options of `serve`, validated. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    listen: str = Field(DEFAULT_LISTEN, description="The address to serve on, HOST:PORT; port 0 takes a free one.")
    workers: int = Field(1, ge=1, le=64, description="The number of worker processes, all on that address.")
    transport: Literal["auto", "grpcio", "envoy"] = Field(
        "auto",
        description="What receives calls: grpcio's server, or an Envoy in each worker, which serves several times as "
        "many Authorize calls a second and needs the extra [envoy]. auto means Envoy if it is installed and runs here.",
    )
    metrics_listen: str | None = Field(
        None,
        description="The address to serve Prometheus metrics on, for all workers. Without one, none are served.",
    )
    health_listen: str | None = Field(
        None,
        description="The address to serve the HTTP probes /healthz and /readyz on, without TLS or login. Without one, "
        "none are served.",
    )
    gateway_listen: str | None = Field(
        None,
        description="The address of the HTTP endpoint for gateways that ask by HTTP: nginx, Caddy, Traefik; see "
        "docs/gateways.md. It has no TLS, so it must be loopback, unless allow_plaintext is set. Without one, none is "
        "served.",
    )
    data_dir: Path = Field(
        DEFAULT_DATA_DIR, description="The folder of the embedded database and of the operator's token."
    )
    database_url: SecretStr | None = Field(
        None,
        description="The Postgres to use, postgresql://…; without one, an embedded Postgres in the data folder. "
        "Every user of the machine can read a flag, so a password belongs in the variable.",
    )
    database_schema: str = Field(
        DEFAULT_SCHEMA,
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="The schema of the tables, whatever search_path says.",
    )
    callers: Path | None = Field(None, description="The file that names the callers; see docs/callers.md.")
    local_operator: bool = Field(
        default=True,
        description="Accept the token in the data folder's file operator-token, as that of an operator.",
    )
    tls_cert: Path | None = Field(None, description="The server's certificate chain, PEM. With it, TLS is served.")
    tls_key: Path | None = Field(None, description="The private key of the certificate, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="The CA of the clients' certificates, PEM. With it, every client must have a certificate."
    )
    allow_plaintext: bool = Field(default=False, description="Serve without TLS on an address that is not loopback.")
    reflection: bool = Field(default=True, description="Serve reflection, so that grpcurl needs no .proto files.")
    http_json: bool = Field(
        EnvoySettings.http_json,
        description="Serve the methods as HTTP and JSON, too, on the same address; see docs/http.md. Only with the "
        "transport envoy.",
    )
    pool_size: int = Field(
        EnvoySettings.pool_size, ge=1, le=1000, description="The most database connections of each worker."
    )
    statement_timeout: float = Field(5.0, gt=0, le=300, description="The most seconds for a statement.")
    lock_timeout: float = Field(2.0, gt=0, le=300, description="The most seconds to wait for a lock.")
    call_timeout: float = Field(15.0, gt=0, le=600, description="The most seconds for a call, whatever its deadline.")
    max_calls: int = Field(
        1000, ge=1, description="The most calls at the same time in a worker. More get RESOURCE_EXHAUSTED."
    )
    max_streams: int = Field(
        100,
        ge=1,
        description="The most calls of FollowEvents at the same time in a worker, of those that max_calls allows. More "
        "get UNAVAILABLE.",
    )
    max_message_bytes: int = Field(
        EnvoySettings.max_message_bytes,
        ge=2**16,
        le=2**28,
        description="The largest request of any method, in bytes, decompressed. Each method also has its own bound: "
        "16 MiB for ApplyWorkspace, 4 MiB for UpdateWorkspace, 1 MiB for BatchAuthorize, 1 MiB for Check, 64 KiB for "
        "the others.",
    )
    max_connections: int = Field(
        EnvoySettings.max_connections,
        ge=1,
        le=1_000_000,
        description="The most connections of a worker. Its limit of open files can make it less; a worker raises its "
        "soft limit to the hard limit.",
    )
    max_connection_age: float = Field(
        EnvoySettings.max_connection_age,
        ge=1,
        le=86400,
        description="Seconds after which a client is asked to connect again, so that clients spread over the workers. "
        "SIGHUP waits that long for each worker.",
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=600,
        description="Seconds after SIGTERM during which new calls are accepted while /readyz fails, so that load "
        "balancers stop sending before connections are refused.",
    )
    drain_timeout: float = Field(
        EnvoySettings.drain_timeout,
        ge=0,
        le=600,
        description="The most seconds for running calls to finish after SIGTERM.",
    )
    worker_timeout: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Seconds without a response to the parent after which a worker is killed and replaced; 0 for no "
        "limit.",
    )
    usage_interval: float = Field(
        5.0, gt=0, le=300, description="Seconds between two writes of the keys' last use, which is exact to a minute."
    )
    activity_interval: float = Field(
        2.0, gt=0, le=60, description="Seconds between two writes of what a worker has counted into the journal."
    )
    activity_fold_interval: float = Field(
        10.0, gt=0, le=300, description="The most seconds for which a count waits in the journal."
    )
    activity_budget: int = Field(
        100_000,
        ge=1,
        le=1_000_000,
        description="How many different facts of a minute a worker tells apart. Further calls are counted without "
        "their tool.",
    )
    activity_waiting: int = Field(
        200_000,
        ge=1000,
        le=10_000_000,
        description="The most counts in memory while the database does not respond, of about 500 bytes each. Calls "
        "that need another one are not counted.",
    )
    activity_minute_days: int = Field(
        2, ge=1, le=3650, description="For how many days activity by the minute is kept, at least."
    )
    activity_hour_days: int = Field(
        90, ge=1, le=3650, description="For how many days activity by the hour is kept, at least."
    )
    activity_day_days: int = Field(
        730, ge=1, le=36500, description="For how many days activity by the day is kept, at least."
    )
    policy_interval: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="About how many seconds a worker waits before it looks again for keys to revoke because they are "
        "unused, where the key policy of a workspace says so.",
    )
    purge_keys_after_days: int | None = Field(
        None,
        ge=1,
        le=36500,
        description="Days after which a key that was revoked or has expired is removed, with what is personal in its "
        "audit events; never by default.",
    )
    lease: float = Field(
        2.0,
        ge=0.2,
        le=60,
        description="Seconds for which a process may use its memory after it last learned of all changes.",
    )
    cache_keys: int = Field(100_000, ge=1, description="The most keys in memory, of about 1 KiB each.")
    cache_workspaces_mib: int = Field(
        256, ge=1, description="The most memory for workspaces and their tool sets, in MiB, estimated."
    )
    argon2_memory_kib: int = Field(256, ge=8, le=2**20, description="Memory of a secret's hash, in KiB.")
    argon2_passes: int = Field(1, ge=1, le=100, description="Passes of a secret's hash.")
    argon2_lanes: int = Field(1, ge=1, le=64, description="Lanes of a secret's hash.")
    argon2_threads: int = Field(2, ge=1, le=64, description="Threads of each worker that verify secrets.")
    decision_log: Literal["off", "denials", "all"] = Field(
        "denials",
        description="Which decisions about tokens are recorded, as JSON Lines: denials, or all. all makes a granted "
        "Authorize slower, since there is no fast path then.",
    )
    decision_log_file: Path | None = Field(
        None, description="The file to which these records are added; without one, standard output."
    )
    decision_log_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        description="The OTLP collector to send these records to, e.g. http://127.0.0.1:4318/v1/logs. With one, they "
        "are written nowhere else.",
    )
    trace_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        description="The OTLP collector to send traces of calls to, e.g. http://127.0.0.1:4318/v1/traces; needs the "
        "extra [otel]. Without one, there are no traces. With one there is no fast path, so a granted Authorize is "
        "slower.",
    )
    trace_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Which part of the calls without a trace of their caller is traced. With one, the caller decides.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        EnvoySettings.log_format,
        description="The format of log lines: JSON, or coloured for people. auto depends on the terminal.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("listen", "gateway_listen", "metrics_listen", "health_listen"):
            address = getattr(self, name)
            if address is not None and not is_host_port(address):
                raise ValueError(f"{name}: is not HOST:PORT")
        if self.lease >= self.call_timeout:
            raise ValueError(
                "lease: must be less than call_timeout, because a change may have to wait until a lease expires"
            )
        if self.argon2_memory_kib < 8 * self.argon2_lanes:
            raise ValueError("argon2_memory_kib: argon2 needs 8 KiB for each of argon2_lanes")
        if self.database_url is not None:
            try:
                DatabaseUrl.parse(self.database_url.get_secret_value())
            except DatabaseUrlError as error:
                raise ValueError(f"database_url: {error}") from None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.tls_cert is None and not self.allow_plaintext and not is_loopback(self.listen):
            raise ValueError(
                f"listen: {self.listen} is not loopback, and tokens would cross the network unencrypted: "
                "set tls_cert and tls_key, or allow_plaintext if something in front of the service does TLS"
            )
        return self

    @model_validator(mode="after")
    def _check_transport(self) -> Self:
        if self.http_json and self.transport == "grpcio":
            raise ValueError("http_json: needs the transport envoy")
        return self

    @model_validator(mode="after")
    def _check_gateways(self) -> Self:
        if self.gateway_listen is not None and not self.allow_plaintext and not is_loopback(self.gateway_listen):
            raise ValueError(
                f"gateway_listen: {self.gateway_listen} is not loopback, and keys would cross the network unencrypted: "
                "listen on loopback, or set allow_plaintext if something in front of it does TLS"
            )
        return self

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        if not self.activity_minute_days <= self.activity_hour_days <= self.activity_day_days:
            raise ValueError(
                "activity_minute_days must be at most activity_hour_days, and these at most activity_day_days: hours "
                "are made of minutes, and days of hours"
            )
        return self

    @property
    def operator_token_file(self) -> Path:
        """The file of the operator's token."""
        return self.data_dir / OPERATOR_TOKEN_FILE


def is_host_port(address: str) -> bool:
    """Return whether an address is HOST:PORT."""
    match = _HOST_PORT.fullmatch(address)
    return match is not None and int(match["port"]) <= 65535  # noqa: PLR2004 - the last port


def is_loopback(address: str) -> bool:
    """Return whether HOST:PORT is an address that no other machine can reach."""
    host, _, _ = address.rpartition(":")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
