"""Every option of the service, in one place.

Each field is a flag of `skilder-keys serve` and a variable `SKILDER_KEYS_*`; `cli.options` makes both from it.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from skilder_keys.storage.url import DEFAULT_SCHEMA, DatabaseUrl, DatabaseUrlError

DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_DATA_DIR = Path("data")
OPERATOR_TOKEN_FILE = "operator-token"  # noqa: S105 - a file's name

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")


class Settings(BaseModel):
    """The options of `serve`, checked. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    listen: str = Field(DEFAULT_LISTEN, description="The address to serve on, HOST:PORT; port 0 takes a free one.")
    workers: int = Field(1, ge=1, le=64, description="Processes that serve, all on that address.")
    transport: Literal["auto", "grpcio", "envoy"] = Field(
        "auto",
        description="How calls come in: by grpcio's server, or by an Envoy in each worker, which takes several times "
        "as many Authorize a second and needs the extra [envoy]; auto takes Envoy where it is installed and runs.",
    )
    metrics_listen: str | None = Field(
        None, description="The address to serve Prometheus metrics on, for all workers; none without."
    )
    health_listen: str | None = Field(
        None,
        description="The address to answer HTTP probes on, /healthz and /readyz, without TLS or login; none without.",
    )
    data_dir: Path = Field(DEFAULT_DATA_DIR, description="Holds the embedded database and the operator's token.")
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
        default=True, description="Let in whoever sends the token in the data folder's operator-token, as an operator."
    )
    tls_cert: Path | None = Field(None, description="The server's certificate chain, PEM. With it, TLS is served.")
    tls_key: Path | None = Field(None, description="The private key of the certificate, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="The CA of the clients' certificates, PEM. With it, every client must have one."
    )
    allow_plaintext: bool = Field(default=False, description="Serve without TLS on an address that is not loopback.")
    reflection: bool = Field(default=True, description="Serve reflection, so that grpcurl needs no .proto files.")
    pool_size: int = Field(10, ge=1, le=1000, description="The most database connections, of each worker.")
    statement_timeout: float = Field(5.0, gt=0, le=300, description="Seconds after which a statement is ended.")
    lock_timeout: float = Field(2.0, gt=0, le=300, description="Seconds after which a wait for a lock is ended.")
    call_timeout: float = Field(15.0, gt=0, le=600, description="Seconds a call may take, whatever its deadline.")
    max_calls: int = Field(1000, ge=1, description="The most calls under way in a worker; more get RESOURCE_EXHAUSTED.")
    max_message_bytes: int = Field(
        16 * 2**20,
        ge=2**16,
        le=2**28,
        description="The largest request of any method, in bytes, decompressed. Each method has its own bound "
        "besides: 16 MiB for ApplyWorkspace, 1 MiB for BatchAuthorize, 64 KiB for the others.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="The most connections of a worker, as far as it may have that many files; it raises its soft limit "
        "of files to the hard one.",
    )
    max_connection_age: float = Field(
        60.0,
        ge=1,
        le=86400,
        description="Seconds after which a client is told to connect anew, so that clients spread over the workers. "
        "SIGHUP waits that long for each worker.",
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=600,
        description="Seconds after SIGTERM for which calls still come in while /readyz says no, so that load balancers "
        "take note before connections are refused.",
    )
    drain_timeout: float = Field(10.0, ge=0, le=600, description="Seconds for running calls to end on SIGTERM.")
    worker_timeout: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Seconds that a worker may not answer its parent before it is killed and replaced; 0 for no limit.",
    )
    usage_interval: float = Field(
        5.0, gt=0, le=300, description="Seconds between two writes of the keys' last use, which is kept to the minute."
    )
    lease: float = Field(
        2.0, ge=0.2, le=60, description="Seconds a process may answer from memory after it last heard of all changes."
    )
    cache_keys: int = Field(100_000, ge=1, description="The most keys in memory, of about 1 KiB each.")
    cache_tool_sets_mib: int = Field(64, ge=1, description="The most memory for tool sets, in MiB.")
    argon2_memory_kib: int = Field(1024, ge=8, le=2**20, description="Memory of a secret's hash, in KiB.")
    argon2_passes: int = Field(1, ge=1, le=100, description="Passes of a secret's hash.")
    argon2_lanes: int = Field(1, ge=1, le=64, description="Lanes of a secret's hash.")
    argon2_threads: int = Field(2, ge=1, le=64, description="Threads that verify secrets, of each worker.")
    log_grants: bool = Field(
        default=False, description="Log each granted Authorize too; without it they are only counted."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="How log lines look: JSON, or coloured for people; auto chooses by the terminal."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("listen", "metrics_listen", "health_listen"):
            address = getattr(self, name)
            if address is not None and not is_host_port(address):
                raise ValueError(f"{name}: is not HOST:PORT")
        if self.lease >= self.call_timeout:
            raise ValueError("lease: must be less than call_timeout, for a change may have to wait for one to run out")
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
                f"listen: {self.listen} is not loopback, and tokens would cross the network in the clear: "
                "set tls_cert and tls_key, or allow_plaintext where something in front of the service does TLS"
            )
        return self

    @property
    def operator_token_file(self) -> Path:
        """Where the operator's token is kept."""
        return self.data_dir / OPERATOR_TOKEN_FILE


def is_host_port(address: str) -> bool:
    """Return whether it is HOST:PORT."""
    match = _HOST_PORT.fullmatch(address)
    return match is not None and int(match["port"]) <= 65535  # noqa: PLR2004 - the last port


def is_loopback(address: str) -> bool:
    """Tells whether HOST:PORT is an address that no other machine reaches."""
    host, _, _ = address.rpartition(":")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
