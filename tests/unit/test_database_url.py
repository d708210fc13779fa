"""Connection URIs as providers give them, and the errors about those that cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skilder_keys.storage.url import DatabaseUrl, DatabaseUrlError, place

if TYPE_CHECKING:
    from pathlib import Path

Hosts = tuple[tuple[str, int], ...]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the Postgres files and variables of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSERVICEFILE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://db/keys", (("db", 5432),)),
        ("postgres://db:6543/keys", (("db", 6543),)),
        ("postgresql://a:1,b:2,c/keys", (("a", 1), ("b", 2), ("c", 5432))),
        ("postgresql://k:s@a,b/keys", (("a", 5432), ("b", 5432))),
        ("postgresql:///keys?host=a,b&port=1,2", (("a", 1), ("b", 2))),
        ("postgresql:///keys?host=a,b&port=7", (("a", 7), ("b", 7))),
        ("postgresql://[::1]:7,[fe80::1%25eth0]/keys", (("::1", 7), ("fe80::1%eth0", 5432))),
        ("postgresql://%2Frun%2Fpostgresql/keys", (("/run/postgresql", 5432),)),
        ("postgresql:///keys?host=%2Frun%2Fpg", (("/run/pg", 5432),)),
        ("postgresql://:7/keys", (("localhost", 7),)),
        ("postgresql:///keys", ()),
        ("postgresql://", ()),
    ],
)
def test_hosts_and_ports(url: str, hosts: Hosts) -> None:
    """One or several hosts, each with its port; the query parameters win."""
    assert DatabaseUrl.parse(url).hosts == hosts


def test_every_part_is_unescaped() -> None:
    """Every part of a URI may contain %XX escapes."""
    url = DatabaseUrl.parse(
        "postgresql://us%40er:p%2F%23%25@h%2Dost/k%20eys?application_name=a%26b&options=-c%20jit%3Don"
    )
    assert (url.user, url.password, url.hosts, url.database) == ("us@er", "p/#%", (("h-ost", 5432),), "k eys")
    assert (url.application_name, url.options) == ("a&b", "-c jit=on")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("user=u&password=p%40&dbname=d&passfile=f&krbsrvname=k", ("u", "p@", "d", "f", "k")),
        ("user=u&password=p%40&database=d&passfile=f&krbsrvname=k", ("u", "p@", "d", "f", "k")),
    ],
)
def test_parts_may_be_given_as_query_parameters(query: str, expected: tuple[str, ...]) -> None:
    """As libpq accepts them."""
    url = DatabaseUrl.parse(f"postgresql://db?{query}")
    assert (url.user, url.password, url.database, url.passfile, url.krbsrvname) == expected


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("0", None), ("-1", None), ("", None)])
def test_connect_timeout_is_in_seconds(text: str, seconds: float | None) -> None:
    """Zero or less means no limit, so the service's own limit applies."""
    assert DatabaseUrl.parse(f"postgresql://db/k?connect_timeout={text}").connect_timeout == seconds


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require&channel_binding=prefer",
        "target_session_attrs=read-write&load_balance_hosts=random",
        "target_session_attrs=primary&gssencmode=disable&sslcompression=0&sslsni=1",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=1000",
        "client_encoding=UTF8&fallback_application_name=x",
        "sslmode=verify-full&sslnegotiation=postgres&ssl_min_protocol_version=TLSv1.3",
    ],
)
def test_parameters_without_effect_are_accepted(query: str) -> None:
    """The service or the driver already does what they ask for."""
    DatabaseUrl.parse(f"postgresql://db/k?{query}")


@pytest.mark.parametrize(
    ("given", "tls"),
    [
        ("sslmode=require", "postgresql://?sslmode=require"),
        ("ssl=true", "postgresql://?sslmode=require"),
        ("", "postgresql://"),
    ],
)
def test_the_drivers_tls_settings_come_from_the_uri(given: str, tls: str) -> None:
    """And from nowhere else."""
    assert DatabaseUrl.parse(f"postgresql://k:s@db/k?{given}").tls == tls


def test_a_socket_has_no_tls() -> None:
    """Whatever the environment variables ask for."""
    assert DatabaseUrl.parse("postgresql:///k?host=/run/pg&sslmode=require").tls == "postgresql://?sslmode=disable"


@pytest.mark.parametrize("sslmode", ["", "&sslmode=require", "&sslmode=prefer"])
def test_channel_binding_becomes_a_certificate_check(sslmode: str) -> None:
    """The driver has no channel binding, so server name and CA are checked instead, which is as safe."""
    url = DatabaseUrl.parse(f"postgresql://db/k?channel_binding=require{sslmode}")
    assert (url.tls, url.system_roots) == ("postgresql://?sslmode=verify-full", True)


def test_a_given_root_certificate_is_kept(tmp_path: Path) -> None:
    """Both in plain use and together with channel binding."""
    root = tmp_path / "root.pem"
    root.touch()
    given = DatabaseUrl.parse(f"postgresql://db/k?sslmode=verify-ca&channel_binding=require&sslrootcert={root}")
    assert "sslmode=verify-ca" in given.tls
    assert "root.pem" in given.tls
    assert not given.system_roots
    assert DatabaseUrl.parse("postgresql://db/k?sslmode=verify-full&sslrootcert=system").system_roots


def test_a_service_file_fills_in_what_the_uri_leaves_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the named section, as in libpq."""
    file = tmp_path / "services.conf"
    file.write_text("[keys]\nhost=a,b\nport=1,2\ndbname=k\nuser=u\npassword=100%\n[other]\nnonsense=1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    url = DatabaseUrl.parse("postgresql:///mine?service=keys")
    assert (url.hosts, url.database, url.user, url.password) == ((("a", 1), ("b", 2)), "mine", "u", "100%")
    for service, words in (("none", r"service: .*\[none\]"), ("other", "nonsense")):
        with pytest.raises(DatabaseUrlError, match=words):
            DatabaseUrl.parse(f"postgresql://?service={service}")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sslmod=require", "parameter sslmod:"),
        ("pgbouncer=true", "parameter pgbouncer:"),
        ("search_path=keys", "parameter search_path:.*options"),
        ("hostaddr=1.2.3.4", "parameter hostaddr:.*as the host"),
        ("target_session_attrs=standby", "target_session_attrs='standby'.*primary"),
        ("target_session_attrs=any_", "target_session_attrs='any_'"),
        ("sslmode=sometimes", "sslmode='sometimes'.*verify-full"),
        ("channel_binding=yes", "channel_binding='yes'"),
        ("channel_binding=require&sslmode=disable", "channel_binding.*TLS"),
        ("client_encoding=LATIN1", "client_encoding='LATIN1'"),
        ("gssencmode=require", "gssencmode='require'"),
        ("connect_timeout=soon", "connect_timeout='soon'"),
        ("sslrootcert=/nowhere/root.pem", "sslrootcert: there is no file /nowhere/root.pem"),
        ("host=a,b&port=1,2,3", "2 hosts and 3 ports"),
        ("port=0", "between 1 and 65535"),
        ("port=http", "not a number"),
        ("sslmode", "NAME=VALUE"),
        ("%zz=1", "%25"),
        ("application_name=%ff", "application_name"),
    ],
)
def test_an_unusable_parameter_is_named(query: str, words: str) -> None:
    """The error gives the parameter, its value and what to do."""
    with pytest.raises(DatabaseUrlError, match=words):
        DatabaseUrl.parse(f"postgresql://db/k?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://k:hunter2@db/k",
        "postgresql://k:hunter2@more@db/k",
        "postgresql://k:hun/ter2@db/k",
        "postgresql://k:hunter2?@db/k",
        "postgresql://k:hunter2?a@db/k",
        "postgresql://k:hunter2%@db/k",
        "postgresql://k:%ffhunter2@db/k",
        "postgresql://k:hunter2@db:port/k",
        "postgresql://k:hunter2@db/k?unknown=1",
        "postgresql://db/k?password=hunter2%",
        "postgresql://db/k?password=hunter2&unknown=1",
        "k:hunter2@db/k",
        "host=db password=hunter2",
    ],
)
def test_no_error_shows_the_password(url: str) -> None:
    """Nor text that may be part of it, where its special characters were not escaped."""
    with pytest.raises(DatabaseUrlError) as caught:
        DatabaseUrl.parse(url)
    for part in ("hunter2", "hun", "ter2"):
        assert part not in str(caught.value)
    assert caught.value.__cause__ is None


def test_its_repr_shows_nothing() -> None:
    """One day it will be printed where nobody intended it."""
    assert repr(DatabaseUrl.parse("postgresql://k:hunter2@db/k")) == "<DatabaseUrl>"


def test_a_hash_sign_is_part_of_the_password() -> None:
    """A connection URI has no fragment."""
    assert DatabaseUrl.parse("postgresql://k:hun#ter2@db/k").password == "hun#ter2"


def test_addresses_are_written_as_people_write_them() -> None:
    """A host and a port, or the path of a socket."""
    assert [place("db", 1), place("::1", 2), place("/run", 3)] == ["db:1", "[::1]:2", "/run/.s.PGSQL.3"]
