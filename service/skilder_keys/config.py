"""Every option of the service, in one place.

Each field is a flag of `skilder-keys serve` and a variable `SKILDER_KEYS_*`; `cli.options` makes both from it.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from skilder_keys.storage.url import DEFAULT_SCHEMA, DatabaseUrl, DatabaseUrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_DATA_DIR = Path("data")
OPERATOR_TOKEN_FILE = "operator-token"  # noqa: S105 - a file's name

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")
_BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "le": (operator.le, "less than or equal to"),
    "ge": (operator.ge, "greater than or equal to"),
    "gt": (operator.gt, "greater than"),
}

Value = TypeVar("Value")


class SettingsError(ValueError):
    """Settings that cannot be used. The message quotes no value that may be secret.

    Attributes:
        faults: What is wrong, each with the name of the setting.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is not shown where settings are printed."""

    value: str = field(repr=False)


def _option(default: Value, *, description: str, **limits: float | str) -> Value:
    """Declare a setting.

    Args:
        default: Its default.
        description: What it does, for the help and the documents.
        limits: The bounds `gt`, `ge` and `le` of a number, or the `pattern` of a text.
    """
    return field(default=default, metadata={"description": description, **limits})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `serve`, validated. Times are in seconds.

    Raises:
        SettingsError: A value is out of bounds, or does not go together with another.
    """

    listen: str = _option(DEFAULT_LISTEN, description="The address to serve on, HOST:PORT; port 0 takes a free one.")
    workers: int = _option(1, ge=1, le=64, description="The number of worker processes, all on that address.")
    transport: Literal["auto", "grpcio", "envoy"] = _option(
        "auto",
        description="What receives calls: grpcio's server, or an Envoy in each worker, which serves several times as "
        "many Authorize calls a second and needs the extra [envoy]. auto means Envoy if it is installed and runs here.",
    )
    metrics_listen: str | None = _option(
        None,
        description="The address to serve Prometheus metrics on, for all workers. Without one, none are served.",
    )
    health_listen: str | None = _option(
        None,
        description="The address to serve the HTTP probes /healthz and /readyz on, without TLS or login. Without one, "
        "none are served.",
    )
    data_dir: Path = _option(
        DEFAULT_DATA_DIR, description="The folder of the embedded database and of the operator's token."
    )
    database_url: Secret | None = _option(
        None,
        description="The Postgres to use, postgresql://…; without one, an embedded Postgres in the data folder. "
        "Every user of the machine can read a flag, so a password belongs in the variable.",
    )
    database_schema: str = _option(
        DEFAULT_SCHEMA,
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="The schema of the tables, whatever search_path says.",
    )
    callers: Path | None = _option(None, description="The file that names the callers; see docs/callers.md.")
    local_operator: bool = _option(
        default=True,
        description="Accept the token in the data folder's file operator-token, as that of an operator.",
    )
    tls_cert: Path | None = _option(None, description="The server's certificate chain, PEM. With it, TLS is served.")
    tls_key: Path | None = _option(None, description="The private key of the certificate, PEM.")
    tls_client_ca: Path | None = _option(
        None, description="The CA of the clients' certificates, PEM. With it, every client must have a certificate."
    )
    allow_plaintext: bool = _option(default=False, description="Serve without TLS on an address that is not loopback.")
    reflection: bool = _option(default=True, description="Serve reflection, so that grpcurl needs no .proto files.")
    pool_size: int = _option(10, ge=1, le=1000, description="The most database connections of each worker.")
    statement_timeout: float = _option(5.0, gt=0, le=300, description="The most seconds for a statement.")
    lock_timeout: float = _option(2.0, gt=0, le=300, description="The most seconds to wait for a lock.")
    call_timeout: float = _option(15.0, gt=0, le=600, description="The most seconds for a call, whatever its deadline.")
    max_calls: int = _option(
        1000, ge=1, description="The most calls at the same time in a worker. More get RESOURCE_EXHAUSTED."
    )
    max_message_bytes: int = _option(
        16 * 2**20,
        ge=2**16,
        le=2**28,
        description="The largest request of any method, in bytes, decompressed. Each method also has its own bound: "
        "16 MiB for ApplyWorkspace, 1 MiB for BatchAuthorize, 64 KiB for the others.",
    )
    max_connections: int = _option(
        10_000,
        ge=1,
        le=1_000_000,
        description="The most connections of a worker. Its limit of open files can make it less; a worker raises its "
        "soft limit to the hard limit.",
    )
    max_connection_age: float = _option(
        60.0,
        ge=1,
        le=86400,
        description="Seconds after which a client is asked to connect again, so that clients spread over the workers. "
        "SIGHUP waits that long for each worker.",
    )
    drain_delay: float = _option(
        0.0,
        ge=0,
        le=600,
        description="Seconds after SIGTERM during which new calls are accepted while /readyz fails, so that load "
        "balancers stop sending before connections are refused.",
    )
    drain_timeout: float = _option(
        10.0, ge=0, le=600, description="The most seconds for running calls to finish after SIGTERM."
    )
    worker_timeout: float = _option(
        30.0,
        ge=0,
        le=3600,
        description="Seconds without a response to the parent after which a worker is killed and replaced; 0 for no "
        "limit.",
    )
    usage_interval: float = _option(
        5.0, gt=0, le=300, description="Seconds between two writes of the keys' last use, which is exact to a minute."
    )
    lease: float = _option(
        2.0,
        ge=0.2,
        le=60,
        description="Seconds for which a process may use its memory after it last learned of all changes.",
    )
    cache_keys: int = _option(100_000, ge=1, description="The most keys in memory, of about 1 KiB each.")
    cache_tool_sets_mib: int = _option(64, ge=1, description="The most memory for tool sets, in MiB.")
    argon2_memory_kib: int = _option(1024, ge=8, le=2**20, description="Memory of a secret's hash, in KiB.")
    argon2_passes: int = _option(1, ge=1, le=100, description="Passes of a secret's hash.")
    argon2_lanes: int = _option(1, ge=1, le=64, description="Lanes of a secret's hash.")
    argon2_threads: int = _option(2, ge=1, le=64, description="Threads of each worker that verify secrets.")
    log_grants: bool = _option(
        default=False, description="Log each granted Authorize too; without this they are only counted."
    )
    log_format: Literal["auto", "json", "console"] = _option(
        "auto", description="The format of log lines: JSON, or coloured for people. auto depends on the terminal."
    )

    def __post_init__(self) -> None:
        kinds = setting_kinds()
        found = (
            (each.name, _fault(getattr(self, each.name), kinds[each.name], each.metadata)) for each in fields(self)
        )
        if faults := [f"{name}: {fault}" for name, fault in found if fault]:
            raise SettingsError(*faults)
        self._check_together()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these values, of which a path or a secret may be a text.

        Raises:
            SettingsError: As for `Settings`, or there is no such setting.
        """
        kinds = setting_kinds()
        if unknown := [name for name in values if name not in kinds]:
            raise SettingsError(*(f"{name}: there is no such setting" for name in unknown))
        texts = {name for name, value in values.items() if isinstance(value, str) and kinds[name] in (Path, Secret)}
        return cls(**{name: kinds[name](value) if name in texts else value for name, value in values.items()})

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, in a form for JSON and `parse`, without secrets."""
        changed = ((each.name, value) for each in fields(self) if (value := getattr(self, each.name)) != each.default)
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in changed
            if not isinstance(value, Secret)
        }

    def _check_together(self) -> None:
        for name in ("listen", "metrics_listen", "health_listen"):
            address = getattr(self, name)
            if address is not None and not is_host_port(address):
                raise SettingsError(f"{name}: is not HOST:PORT")
        if self.lease >= self.call_timeout:
            raise SettingsError(
                "lease: must be less than call_timeout, because a change may have to wait until a lease expires"
            )
        if self.argon2_memory_kib < 8 * self.argon2_lanes:
            raise SettingsError("argon2_memory_kib: argon2 needs 8 KiB for each of argon2_lanes")
        if self.database_url is not None:
            try:
                DatabaseUrl.parse(self.database_url.value)
            except DatabaseUrlError as error:
                raise SettingsError(f"database_url: {error}") from None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise SettingsError("tls_client_ca needs tls_cert and tls_key")
        if self.tls_cert is None and not self.allow_plaintext and not is_loopback(self.listen):
            raise SettingsError(
                f"listen: {self.listen} is not loopback, and tokens would cross the network unencrypted: "
                "set tls_cert and tls_key, or allow_plaintext if something in front of the service does TLS"
            )

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


@cache
def setting_kinds() -> Mapping[str, Any]:
    """Return the type of each setting, without the None of one that may be left out."""
    return {name: _without_none(kind) for name, kind in get_type_hints(Settings).items()}


def _without_none(kind: Any) -> Any:  # noqa: ANN401 - a type, or a form of one
    first, *others = get_args(kind) or (kind,)
    return first if NoneType in others else kind


def _fault(value: Any, kind: Any, limits: Mapping[str, Any]) -> str | None:  # noqa: ANN401 - of any setting
    """Return what is wrong with a value, or None."""
    if value is None:
        return None
    if get_origin(kind) is Literal and value not in get_args(kind):
        *others, last = map(repr, get_args(kind))
        return f"Input should be {', '.join(others)} or {last}"
    if "pattern" in limits and not re.fullmatch(limits["pattern"], value):
        return f"String should match pattern '{limits['pattern']}'"
    # Not a number (NaN) compares as false, so it is out of every bound.
    for name, (is_within, words) in _BOUNDS.items():
        if name in limits and not is_within(value, limits[name]):
            return f"Input should be {words} {limits[name]}"
    return None
