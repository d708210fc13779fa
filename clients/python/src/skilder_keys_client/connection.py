"""Where the service is, and how a caller proves to it who it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from skilder_keys_client.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_RESPONSE_BYTES = 16 * 2**20
_MAX_TOKEN_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the service. TLS with the system's certificate authorities, unless it says something else.

    Attributes:
        target: `host:port`, or any other target of gRPC.
        token: This caller's own token. Or, better, `token_file`:
        token_file: A file with it, which is read again when it changes.
        plaintext: Use no TLS. Whoever can read the network then has the tokens.
        root_certificates: Whom to trust (PEM).
        certificate: This caller's certificate, with its chain (PEM), if it proves by one who it is.
        private_key: The private key of the certificate (PEM).
        options: More options of the gRPC channel.
    """

    target: str
    token: str | None = field(default=None, repr=False)
    token_file: str | Path | None = None
    plaintext: bool = False
    root_certificates: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)
    options: Sequence[tuple[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("give certificate and private_key together")
        if self.plaintext and (self.root_certificates or self.certificate):
            raise ValueError("plaintext has no certificates")
        if self.token is not None:
            _checked(self.token)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return the credentials of the channel; None for plaintext."""
        if self.plaintext:
            return None
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate)

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return the options of the channel: retries, keepalive, and room for the largest response."""
        return [
            ("grpc.service_config", json.dumps(_without_timeouts(_SERVICE_CONFIG))),
            ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            *self.options,
        ]


class Bearer:
    """The caller's token, as the metadata of a call. It is in no repr."""

    def __init__(self, connection: Connection) -> None:
        self._token = connection.token
        self._file = None if connection.token_file is None else Path(connection.token_file)
        self._read: tuple[int, int, int] | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata.

        Raises:
            ServiceError: The file has no token. The code is that of a caller without one: it is no outage.
        """
        if self._file is not None:
            try:
                self._read_again(self._file)
            except (OSError, ValueError) as error:
                message = f"The caller's token cannot be read from {self._file}: {error}"
                raise ServiceError(grpc.StatusCode.UNAUTHENTICATED, message) from error
        return () if self._token is None else (("authorization", f"Bearer {self._token}"),)

    def _read_again(self, path: Path) -> None:
        """Read the file if it is another one than before, or has changed."""
        found = path.stat()
        if (state := (found.st_mtime_ns, found.st_size, found.st_ino)) != self._read:
            with path.open("rb") as file:
                self._token = _checked(file.read(_MAX_TOKEN_FILE_BYTES).decode(errors="replace").strip())
            self._read = state


def _checked(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        # Without the value: it may be a token with a stray character.
        raise ValueError("the caller's token must be printable ASCII without spaces")
    return token


def _without_timeouts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service config without its deadlines, which are sent with each call.

    gRPC's C core ends a call a second or two before such a deadline has passed (grpc/grpc issue 34547).
    """
    methods = [{name: value for name, value in each.items() if name != "timeout"} for each in config["methodConfig"]]
    return {**config, "methodConfig": methods}


_FILE = files("skilder_keys_client") / "service-config.json"
_SERVICE_CONFIG: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
DEADLINES: dict[str, float] = {
    f"/{name['service']}/{name['method']}": float(methods["timeout"].removesuffix("s"))
    for methods in _SERVICE_CONFIG["methodConfig"]
    if "timeout" in methods
    for name in methods["name"]
}
"""The seconds that a call of a method has, by its path. A stream without an end has none."""
