"""The connection to the service, and the errors of its calls in words."""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import grpc
import typer
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status
from rich.console import Console
from rich.text import Text

from service.cli.exits import Exit, exit_for
from service.cli.options import variable
from service.config import DEFAULT_DATA_DIR, DEFAULT_LISTEN, OPERATOR_TOKEN_FILE, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TIMEOUT = 30.0
# A workspace, or a long page of keys, is more than a gRPC client takes unless told to.
_OPTIONS = [("grpc.max_receive_message_length", 256 * 2**20)]

Server = Annotated[
    str,
    typer.Option(
        envvar=[variable("server"), variable("listen")], help="The service to talk to, HOST:PORT.", show_envvar=True
    ),
]
DataDir = Annotated[
    Path, typer.Option(envvar=variable("data_dir"), help="The data folder of a local service, which holds its token.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar=variable("token_file"),
        help="The file with the caller's own token [default: operator-token in --data-dir].",
    ),
]
Tls = Annotated[bool, typer.Option("--tls", envvar=variable("tls"), help="Use TLS, and trust the system's CAs.")]
AllowPlaintext = Annotated[
    bool, typer.Option("--allow-plaintext", help="Talk without TLS to an address that is not loopback.")
]
TlsCa = Annotated[
    Path | None, typer.Option(envvar=variable("tls_ca"), help="The CA of the server's certificate, PEM; sets TLS.")
]
ClientCert = Annotated[
    Path | None,
    typer.Option(envvar=variable("client_cert"), help="A client certificate, PEM, where mTLS is asked for."),
]
ClientKey = Annotated[
    Path | None, typer.Option(envvar=variable("client_key"), help="The private key of the client certificate, PEM.")
]

Stub = TypeVar("Stub")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the service, from the command line."""

    server: str
    token_file: Path
    tls: bool
    tls_ca: Path | None
    client_cert: Path | None
    client_key: Path | None
    allow_plaintext: bool

    @contextmanager
    def stub(self, kind: Callable[[grpc.Channel], Stub]) -> Iterator[Stub]:
        """Lends a stub whose calls carry the caller's token and a deadline; a failed call ends the command."""
        with grpc.intercept_channel(self._channel(), _Authorization(self._token())) as channel, _errors_in_words(self):
            yield kind(channel)

    def _channel(self) -> grpc.Channel:
        if not (self.tls or self.tls_ca or self.client_cert or self.client_key):
            if not (self.allow_plaintext or is_loopback(self.server)):
                raise fail(
                    f"{self.server} is not loopback, and the token would cross the network in the clear: "
                    "set --tls or --tls-ca, or --allow-plaintext",
                    Exit.USAGE,
                )
            return grpc.insecure_channel(self.server, options=_OPTIONS)
        if (self.client_cert is None) != (self.client_key is None):
            raise fail("--client-cert and --client-key go together", Exit.USAGE)
        with _files_in_words():
            credentials = grpc.ssl_channel_credentials(
                self.tls_ca.read_bytes() if self.tls_ca else None,
                self.client_key.read_bytes() if self.client_key else None,
                self.client_cert.read_bytes() if self.client_cert else None,
            )
        return grpc.secure_channel(self.server, credentials, options=_OPTIONS)

    def _token(self) -> str | None:
        if self.client_cert is not None and not self.token_file.exists():
            return None
        with _files_in_words("; does the service run from this folder? If not, set --data-dir or --token-file"):
            return self.token_file.read_text("ascii").strip()


def connected(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options by which it reaches the service, and hands it the `Connection` they make, first."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    added = list(inspect.signature(_connection, eval_str=True).parameters.values())

    @functools.wraps(function)
    def command(**values: object) -> None:
        service = _connection(**{each.name: values.pop(each.name) for each in added})  # type: ignore[arg-type]
        function(service, **values)

    # Typer reads the options off a function's signature; ours has those of two.
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own + added]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _connection(
    server: Server = DEFAULT_LISTEN,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    token_file: TokenFile = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    allow_plaintext: AllowPlaintext = False,
) -> Connection:
    return Connection(
        server=server,
        token_file=token_file or data_dir / OPERATOR_TOKEN_FILE,
        tls=tls,
        tls_ca=tls_ca,
        client_cert=client_cert,
        client_key=client_key,
        allow_plaintext=allow_plaintext,
    )


def fail(message: str, code: Exit) -> typer.Exit:
    """Says on standard error what went wrong and answers what to raise."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(("Error:", "red"), " ", message))
    return typer.Exit(code)


class _Authorization(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, token: str | None) -> None:
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Adds the caller's token and the deadline."""
        return continuation(details._replace(metadata=self._metadata, timeout=_TIMEOUT), request)


@contextmanager
def _errors_in_words(to: Connection) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code = error.code()
        details = error.details() or code.name
        status = rpc_status.from_call(error)
        if status is None and code is grpc.StatusCode.UNAVAILABLE:
            # Without our details it is gRPC that speaks: there was nobody to talk to.
            raise fail(f"cannot reach the service at {to.server}: {details}", Exit.UNAVAILABLE) from None
        lines = [details]
        for packed in status.details if status is not None else ():
            bad_request = BadRequest()
            if packed.Unpack(bad_request):
                lines = ["the request is malformed:"]
                lines += [f"  {each.field} {each.description}" for each in bad_request.field_violations]
        raise fail("\n".join(lines), exit_for(code)) from None


@contextmanager
def _files_in_words(hint: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise fail(said + hint, Exit.USAGE) from None
