"""The connection URI of the database, with every parameter that libpq allows in one.

See "Connection URIs" and "Parameter Key Words" in the libpq chapter of the Postgres manual. The driver sends parameters
that it does not know to the server, as settings, where they cause confusing errors. So the URI is parsed here. Every
parameter is used, is known to make no difference, or is named in the error.
"""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SCHEMA = "public"

_PORT = 5432
_URI = re.compile(
    # More than one @ means that a password was not escaped. The text after the first @ must not be taken for a host.
    r"postgres(?:ql)?://(?:(?P<user>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?"
    r"(?P<hosts>[^@/?]*)(?:/(?P<dbname>[^@?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_TLS = (*_FILES, "sslmode", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version")
_USED = {
    *("host", "port", "dbname", "user", "password", "passfile", "connect_timeout", "application_name", "options"),
    *("service", "krbsrvname", *_TLS),
}
# The values that make no difference here: each call has its own time limits, only the primary is used, and the driver
# uses UTF-8, no GSS encryption and no TLS compression.
_ALLOWED: Mapping[str, re.Pattern[str]] = {
    name: re.compile(values)
    for name, values in {
        "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
        "target_session_attrs": "any|read-write|primary",
        "channel_binding": "disable|prefer|require",
        "client_encoding": "(?i:auto|utf-?8|unicode)",
        "gssencmode": "disable|prefer",
        "sslcompression": "0",
        "sslsni": "1",
        "keepalives(_idle|_interval|_count)?|tcp_user_timeout": "[0-9]+",
        "load_balance_hosts": "disable|random",
        "fallback_application_name": ".*",
    }.items()
}
_HINTS = {
    "target_session_attrs": "the service needs the primary: leave it out",
    "hostaddr": "use the address as the host",
}


class DatabaseUrlError(ValueError):
    """A connection URI that cannot be used. The message never quotes a password or what may be part of one."""


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """The parts of a connection URI. Make it with `parse`.

    Attributes:
        hosts: The hosts and ports, in order: names, addresses, or folders of Unix sockets; empty for the driver's
            default.
        connect_timeout: Seconds to wait for each host; None if the URI does not set it.
        options: The command-line options with which the server starts a session.
        tls: A URI that has only the driver's TLS options.
        system_roots: Whether the server's certificate and name are checked with the machine's certificate authorities.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = None
    database: str | None = None
    passfile: str | None = None
    krbsrvname: str | None = None
    connect_timeout: float | None = None
    application_name: str | None = None
    options: str | None = None
    tls: str = "postgresql://"
    system_roots: bool = False

    def __repr__(self) -> str:
        """Return a text without any part: there may be a password."""
        return "<DatabaseUrl>"

    @classmethod
    def parse(cls, url: str) -> DatabaseUrl:
        """Return the parts of a URI, completed by the section of the service file that it names.

        Raises:
            DatabaseUrlError: It is not such a URI, a parameter is unknown, or a file that it names does not exist.
        """
        given = _split(url)
        if "service" in given:
            given = _service(given["service"]) | given
        for name, value in given.items():
            _check(name, value)
        tls = {name: given[name] for name in _TLS if given.get(name)}
        hosts = _hosts(given)
        if given.get("channel_binding") == "require":
            _bind_channel(tls, hosts)
        system_roots = tls.get("sslrootcert") == "system"
        if system_roots:
            del tls["sslrootcert"]
        if hosts and all(host.startswith("/") for host, _ in hosts):
            tls = {"sslmode": "disable"}  # a Unix socket has no TLS, whatever the environment says
        return cls(
            hosts=hosts,
            user=given.get("user"),
            password=given.get("password"),
            database=given.get("dbname"),
            passfile=given.get("passfile"),
            krbsrvname=given.get("krbsrvname"),
            connect_timeout=_seconds(given.get("connect_timeout")),
            application_name=given.get("application_name"),
            options=given.get("options"),
            tls=f"postgresql://?{urlencode(tls)}" if tls else "postgresql://",
            system_roots=system_roots,
        )


def _split(url: str) -> dict[str, str]:
    """Return the parameters of a URI by libpq's names. A parameter in the query replaces one before the query."""
    match = _URI.fullmatch(url)
    if match is None:
        raise DatabaseUrlError(
            "is not postgresql://USER:PASSWORD@HOST:PORT/NAME, special characters escaped (@ is %40, / is %2F)"
        )
    parts = {name: _unescape(match[name], name) for name in ("user", "password", "dbname") if match[name]}
    hosts, ports = [], []
    for each in match["hosts"].split(",") if match["hosts"] else ():
        host_port = _HOST.fullmatch(each)
        if host_port is None:
            raise DatabaseUrlError(
                "has a port that is not a number, or a password with characters that are not escaped"
            )
        hosts.append(_unescape(host_port["host"].strip("[]"), "host"))
        ports.append(host_port["port"] or "")
    if hosts:
        parts |= {"host": ",".join(hosts)} | ({"port": ",".join(ports)} if any(ports) else {})
    for each in match["query"].split("&") if match["query"] else ():
        name, equals, value = each.partition("=")
        name = _unescape(name, "query")
        if not equals or not _NAME.fullmatch(name):
            raise DatabaseUrlError("has a query that is not NAME=VALUE&NAME=VALUE, special characters escaped")
        if (name, value) == ("ssl", "true"):  # the spelling of JDBC, which libpq accepts
            name, value = "sslmode", "require"
        parts["dbname" if name == "database" else name] = _unescape(value, name)
    return parts


def _unescape(text: str, name: str) -> str:
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        plain = "\0"
    if _ESCAPE.search(text) or "\0" in plain:
        raise DatabaseUrlError(f"has a {name} with a % that is not part of an escaped character: write %25 for %")
    return plain


def _service(name: str) -> dict[str, str]:
    """Return the parameters in a section of the service file."""
    path = Path(os.environ.get("PGSERVICEFILE") or Path.home() / ".pg_service.conf")
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read_string(path.read_text("utf-8"))
        return dict(file[name])
    except (OSError, UnicodeError, configparser.Error, KeyError):
        raise DatabaseUrlError(f"service: there is no section [{name}] in {path}, or the file cannot be read") from None


def _check(name: str, value: str) -> None:
    allowed = next((values for names, values in _ALLOWED.items() if re.fullmatch(names, name)), None)
    if allowed is None and name not in _USED:
        hint = _HINTS.get(name, "settings of Postgres go into options, e.g. options=-c%20geqo%3Doff")
        raise DatabaseUrlError(f"has the unknown parameter {name}: {hint}")
    if allowed is not None and not allowed.fullmatch(value):
        hint = _HINTS.get(name, f"it may be {allowed.pattern}")
        raise DatabaseUrlError(f"has {name}={value!r}, which is not supported: {hint}")
    if name in _FILES and value and (name, value) != ("sslrootcert", "system") and not Path(value).is_file():
        raise DatabaseUrlError(f"{name}: there is no file {value}")


def _hosts(given: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    if not given.get("host"):
        if not given.get("port"):
            return ()
        given = {**given, "host": "localhost"}
    hosts = [host or "localhost" for host in given["host"].split(",")]
    try:
        ports = [int(port) if port else _PORT for port in given.get("port", "").split(",")]
    except ValueError:
        raise DatabaseUrlError("has a port that is not a number") from None
    if any(not 0 < port < 2**16 for port in ports):
        raise DatabaseUrlError("has a port that is not between 1 and 65535")
    if len(ports) not in (1, len(hosts)):
        raise DatabaseUrlError(f"has {len(hosts)} hosts and {len(ports)} ports: give one port, or one for each host")
    return tuple(zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True))


def _bind_channel(tls: dict[str, str], hosts: tuple[tuple[str, int], ...]) -> None:
    """Require a verified server certificate in place of channel binding, which the driver does not have.

    Either of them prevents an attacker between client and server.
    """
    if tls.get("sslmode") in ("disable", "allow") or any(host.startswith("/") for host, _ in hosts):
        raise DatabaseUrlError("has channel_binding='require', which needs TLS: set sslmode=require, or leave it out")
    if tls.get("sslmode") not in ("verify-ca", "verify-full"):
        tls["sslmode"] = "verify-full"
    if not os.environ.get("PGSSLROOTCERT") and not (Path.home() / ".postgresql" / "root.crt").is_file():
        tls.setdefault("sslrootcert", "system")


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,6}", text):
        raise DatabaseUrlError(f"has connect_timeout={text!r}, which is not a number of seconds")
    return float(text) if int(text) > 0 else None


def place(host: str, port: int) -> str:
    """Return an address for people: HOST:PORT, or the path of a Unix socket."""
    if host.startswith("/"):
        return f"{host}/.s.PGSQL.{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
