"""The connection to the service."""

from __future__ import annotations

import functools
import inspect
import ipaddress
import os
import socket
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import grpc
import typer

from skilder_keys.cli.arguments import check_text, flags_of
from skilder_keys.cli.errors import message_of
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.secrets import token_in
from skilder_keys.cli.variables import variable
from skilder_keys.config import DEFAULT_DATA_DIR, DEFAULT_LISTEN, OPERATOR_TOKEN_FILE, is_host_port, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TIMEOUT = 30.0
_OPTIONS = [
    # A workspace may have 16 MiB, which exceeds the default limit of a gRPC client.
    ("grpc.max_receive_message_length", 16 * 2**20),
    # For commands that go on for long: notice that the connection is dead, and that the service is back.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")

Server = Annotated[
    str,
    typer.Option(
        envvar=[variable("server"), variable("listen")], help="The service's address, HOST:PORT.", show_envvar=True
    ),
]
DataDir = Annotated[
    Path, typer.Option(envvar=variable("data_dir"), help="The data folder of a local service; its token is there.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar=variable("token_file"),
        help="A file with your token [default: operator-token in --data-dir].",
    ),
]
Tls = Annotated[bool, typer.Option("--tls", envvar=variable("tls"), help="Use TLS and trust the CAs of this system.")]
AllowPlaintext = Annotated[
    bool,
    typer.Option(
        "--allow-plaintext", help="Allow a service on another machine without TLS; your token is sent unencrypted."
    ),
]
TlsCa = Annotated[Path | None, typer.Option(envvar=variable("tls_ca"), help="Use TLS and trust this CA, a PEM file.")]
ClientCert = Annotated[
    Path | None,
    typer.Option(envvar=variable("client_cert"), help="Your client certificate, a PEM file, for mutual TLS."),
]
ClientKey = Annotated[
    Path | None,
    typer.Option(envvar=variable("client_key"), help="The private key of the client certificate, a PEM file."),
]

Stub = TypeVar("Stub")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the service, as set on the command line."""

    server: str
    token_file: Path
    tls: bool
    tls_ca: Path | None
    client_cert: Path | None
    client_key: Path | None
    allow_plaintext: bool
    flags: Mapping[str, str]

    @contextmanager
    def stub(self, kind: Callable[[grpc.Channel], Stub]) -> Iterator[Stub]:
        """Yield a stub that sends the caller's token and a deadline with each call. A failed call ends the command."""
        with self.authorized_channel() as channel, _errors_reported(self):
            yield kind(channel)

    def authorized_channel(self) -> grpc.Channel:
        """Return a new channel that sends the caller's token and a deadline with each call. May end the command."""
        return grpc.intercept_channel(self.channel(), _Authorization(self._token()))

    def channel(self) -> grpc.Channel:
        """Return a new channel to the service. End the command if the options do not allow one."""
        if not (self.tls or self.tls_ca or self.client_cert or self.client_key):
            if not (self.allow_plaintext or is_loopback(self.server) or self.server.startswith("unix:")):
                raise fail(
                    f"{self.server} is not loopback, and the token would cross the network unencrypted: "
                    "set --tls or --tls-ca, or --allow-plaintext",
                    Exit.USAGE,
                )
            return grpc.insecure_channel(self.server, options=_options(self.server))
        if (self.client_cert is None) != (self.client_key is None):
            raise fail("--client-cert and --client-key go together: set both", Exit.USAGE)
        credentials = grpc.ssl_channel_credentials(*map(_certificate, (self.tls_ca, self.client_key, self.client_cert)))
        return grpc.secure_channel(self.server, credentials, options=_options(self.server))

    def _token(self) -> str | None:
        if self.client_cert is not None and not self.token_file.exists():
            return None
        hint = "does the service run from this folder? If not, set --data-dir or --token-file"
        return token_in(self.token_file, hint if self.token_file.name == OPERATOR_TOKEN_FILE else "see --token-file")


def connected(function: Callable[..., None]) -> Callable[..., None]:
    """Add the connection options to a command, and pass it the resulting `Connection` as its first argument."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    added = list(inspect.signature(_connection, eval_str=True).parameters.values())[1:]
    flags = flags_of({each.name: each for each in own + added})

    @functools.wraps(function)
    def command(context: typer.Context, **values: object) -> None:
        check_text(values, flags)
        _check_given(own, values, context, flags)
        service = _connection(flags, **{each.name: values.pop(each.name) for each in added})  # type: ignore[arg-type]
        function(service, **values)

    # Typer reads the options from a function's signature, so combine the parameters of both functions in one.
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own + added)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _check_given(
    parameters: Iterable[inspect.Parameter],
    values: Mapping[str, object],
    context: typer.Context,
    flags: Mapping[str, str],
) -> None:
    """End the command if an option is given, but empty, as by an unset variable: it would count as left out."""
    for each in parameters:
        source = context.get_parameter_source(each.name)
        if each.default == values[each.name] == "" and source is not None and source.name == "COMMANDLINE":
            raise fail(f"{flags[each.name]} is empty: give a value, or leave it out", Exit.USAGE)


def _connection(
    flags: Mapping[str, str],
    server: Server = DEFAULT_LISTEN,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    token_file: TokenFile = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    allow_plaintext: AllowPlaintext = False,
) -> Connection:
    if not (is_host_port(server) or server.startswith("unix:")):
        raise fail(f"--server: {server!r} is not HOST:PORT", Exit.USAGE)
    return Connection(
        server=server,
        token_file=token_file or data_dir / OPERATOR_TOKEN_FILE,
        tls=tls,
        tls_ca=tls_ca,
        client_cert=client_cert,
        client_key=client_key,
        allow_plaintext=allow_plaintext,
        flags=flags,
    )


class _Authorization(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, token: str | None) -> None:
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Add the caller's token and the deadline."""
        return continuation(self._signed(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Add the caller's token and the deadline."""
        return continuation(self._signed(details), request)

    def _signed(self, details: Any) -> Any:  # noqa: ANN401 - gRPC's own
        return details._replace(metadata=self._metadata, timeout=details.timeout or _TIMEOUT)


@contextmanager
def _errors_reported(to: Connection) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise fail(*message_of(error, to.server, to.flags)) from None


def _certificate(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file else None
    except OSError as error:
        raise fail(f"{file}: {error.strerror}", Exit.USAGE) from None


def _options(server: str) -> list[tuple[str, int]]:
    """Return the channel's options. Use no proxy for a service on this machine: the proxy would see the token."""
    proxied = any(os.environ.get(name) for name in _PROXY_VARIABLES)
    return [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if proxied and _is_here(server) else _OPTIONS


def _is_here(server: str) -> bool:
    """Return whether an address is on this machine. A host name is if it resolves to loopback addresses only."""
    if server.startswith(("unix:", "unix-abstract:")):
        return True
    host, _, port = server.removeprefix("dns:").lstrip("/").rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(_is_local(str(address[0])) for *_, address in found)


def _is_local(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified
