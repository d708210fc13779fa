"""The settings: which values are refused, and which are never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from skilder_keys.config import Settings

TLS: dict[str, Any] = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}
URL = "postgresql://keys:hunter2@db.internal/keys"


def refusal(**values: Any) -> str:
    """Return why settings are refused."""
    with pytest.raises(ValidationError) as caught:
        Settings(**values)
    return "; ".join(each["msg"] for each in caught.value.errors())


def test_the_defaults_work() -> None:
    """Nothing has to be set. By default the service listens on this machine only."""
    settings = Settings()
    assert settings.listen == "127.0.0.1:50051"
    assert settings.database_url is None
    assert settings.operator_token_file == Path("data/operator-token")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "127.9.9.9", "[0:0:0:0:0:0:0:1]"])
def test_loopback_is_served_in_plaintext(host: str) -> None:
    """Traffic that never leaves the machine needs no TLS."""
    assert Settings(listen=f"{host}:50051").listen == f"{host}:50051"


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",  # noqa: S104 - refused
        "[::]",
        "10.0.0.1",
        "128.0.0.1",
        "example.com",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "[2001:db8::1]",
        "127.1",
        "0127.0.0.1",
        "localhost ",
        "*",
    ],
)
def test_other_addresses_need_tls_or_an_explicit_option(host: str) -> None:
    """Tokens do not cross a network unencrypted by mistake."""
    assert "is not loopback" in refusal(listen=f"{host}:50051")
    assert Settings(listen=f"{host}:50051", allow_plaintext=True).allow_plaintext
    assert Settings(listen=f"{host}:50051", **TLS).tls_cert == Path("cert.pem")


@pytest.mark.parametrize(
    "listen",
    [
        "",
        ":",
        ":50051",
        "localhost",
        "localhost:",
        "localhost:x",
        "localhost:-1",
        "localhost:65536",
        "localhost:123456",
        "::1:50051",
        "[::1]",
        "[::1]50051",
        "[localhost]:1",
        "http://localhost:1",
        "unix:/tmp/socket",
        "localhost:1\n",
        "localhost: 1",
        "localhost:1:2",
        "localhost:\u0665\u0660",
        "local\udcffhost:1",
    ],
)
def test_an_address_is_host_and_port(listen: str) -> None:
    """Anything else is refused at once, even where plaintext is allowed."""
    assert "listen: is not HOST:PORT" in refusal(listen=listen, allow_plaintext=True)
    assert "metrics_listen: is not HOST:PORT" in refusal(metrics_listen=listen)


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_a_port_is_0_to_65535(port: int) -> None:
    """Port 0 picks a free port."""
    assert Settings(listen=f"localhost:{port}").listen == f"localhost:{port}"
    assert Settings(metrics_listen=f"0.0.0.0:{port}").metrics_listen == f"0.0.0.0:{port}"


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key"])
def test_certificate_and_key_go_together(missing: str) -> None:
    """One without the other is refused, instead of serving in plaintext."""
    assert "go together" in refusal(**{name: value for name, value in TLS.items() if name != missing})


def test_json_needs_envoy() -> None:
    """There is no HTTP without it, so a start that cannot do what was asked for fails."""
    assert "http_json: needs the transport envoy" in refusal(http_json=True, transport="grpcio")
    assert Settings(http_json=True, transport="envoy").http_json
    assert Settings(http_json=True).http_json


def test_clients_certificates_need_tls() -> None:
    """A client CA without a server certificate would check nobody."""
    assert "needs tls_cert" in refusal(tls_client_ca=Path("ca.pem"))
    assert Settings(tls_client_ca=Path("ca.pem"), **TLS).tls_client_ca == Path("ca.pem")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("workers", 0),
        ("workers", 65),
        ("pool_size", 0),
        ("pool_size", 1001),
        ("statement_timeout", 0),
        ("statement_timeout", float("inf")),
        ("lock_timeout", -1),
        ("call_timeout", float("nan")),
        ("max_calls", 0),
        ("max_message_bytes", 65535),
        ("max_connection_age", 0.5),
        ("max_connection_age", float("inf")),
        ("drain_timeout", -0.1),
        ("usage_interval", 0),
        ("argon2_memory_kib", 7),
        ("argon2_passes", 0),
        ("argon2_lanes", 0),
        ("argon2_threads", 0),
        ("log_format", "xml"),
        ("transport", "window"),
    ],
)
def test_a_value_out_of_bounds_is_named(name: str, bad: Any) -> None:
    """Values that would stop the service from working, or mean nothing, are refused."""
    with pytest.raises(ValidationError) as caught:
        Settings(**{name: bad})
    assert [each["loc"] for each in caught.value.errors()] == [(name,)]


def test_every_value_out_of_bounds_is_reported() -> None:
    """In the order of the settings, so that all can be corrected at once."""
    with pytest.raises(ValidationError) as caught:
        Settings(lease=99.0, workers=0, database_schema="A", transport="window", drain_delay=float("nan"))
    assert [(*each["loc"], each["msg"]) for each in caught.value.errors()] == [
        ("workers", "Input should be greater than or equal to 1"),
        ("transport", "Input should be 'auto', 'grpcio' or 'envoy'"),
        ("database_schema", "String should match pattern '^[a-z_][a-z0-9_]{0,62}$'"),
        ("drain_delay", "Input should be less than or equal to 600"),
        ("lease", "Input should be less than or equal to 60"),
    ]


def test_argon2_has_the_memory_its_lanes_need() -> None:
    """Argon2 needs 8 KiB a lane (RFC 9106, 3.1). With less every issue would fail, so the start fails instead."""
    assert Settings(argon2_memory_kib=32, argon2_lanes=4).argon2_lanes == 4
    assert refusal(argon2_memory_kib=31, argon2_lanes=4)


def test_an_unknown_option_is_refused() -> None:
    """A typo is not silently ignored."""
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"tls_certificate": "cert.pem"})
    assert [(each["loc"], each["type"]) for each in caught.value.errors()] == [
        (("tls_certificate",), "extra_forbidden")
    ]


def test_settings_are_immutable() -> None:
    """Values cannot change after they were checked."""
    with pytest.raises(ValidationError):
        Settings().listen = "0.0.0.0:1"  # type: ignore[misc]  # that is the point


def test_the_databases_password_is_not_shown() -> None:
    """It is neither printed nor dumped; code must ask for it explicitly."""
    settings = Settings.model_validate({"database_url": URL})
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == URL
    for shown in (repr(settings), str(settings), f"{settings.database_url}", str(settings.model_dump())):
        assert "hunter2" not in shown
    assert "hunter2" not in settings.model_dump_json()


@pytest.mark.parametrize(
    "fault",
    [{"listen": "0.0.0.0:1"}, {"pool_size": 0}, {"tls_key": Path("k")}, {"none": 1}],
    ids=["plaintext", "bound", "half of TLS", "unknown"],
)
def test_a_refusal_does_not_show_the_databases_password(fault: dict[str, Any]) -> None:
    """Errors about other settings are printed, so they must not show it either."""
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({**fault, "database_url": "postgresql://k:hunter2@db/k"})
    assert "hunter2" not in str(caught.value)


def test_the_endpoint_of_gateways_is_loopback() -> None:
    """It has no TLS."""
    assert "gateway_listen" in refusal(gateway_listen="0.0.0.0:9001")
    assert "gateway_listen: is not HOST:PORT" in refusal(gateway_listen="/run/keys.sock")
    assert Settings(gateway_listen="127.0.0.1:9001").gateway_listen == "127.0.0.1:9001"
    assert Settings(gateway_listen="0.0.0.0:9001", allow_plaintext=True).gateway_listen == "0.0.0.0:9001"
