"""Connection URIs as providers give them, and what is said of those that cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skilder_keys.storage.url import DatabaseUrl, DatabaseUrlError, place

if TYPE_CHECKING:
    from pathlib import Path

Hosts = tuple[tuple[str, int], ...]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file and no variable of whoever runs the tests."""
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
    """One or several, each with its port; the query wins."""
    assert DatabaseUrl.parse(url).hosts == hosts


def test_every_part_is_unescaped() -> None:
    """What is not allowed in a URI as it is comes as %XX."""
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
def test_what_may_stand_in_the_query_too(query: str, expected: tuple[str, ...]) -> None:
    """As libpq takes it."""
    url = DatabaseUrl.parse(f"postgresql://db?{query}")
    assert (url.user, url.password, url.database, url.passfile, url.krbsrvname) == expected


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("0", None), ("-1", None), ("", None)])
def test_connect_timeout_is_in_seconds(text: str, seconds: float | None) -> None:
    """Zero and less is without end, so ours are kept to."""
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
def test_what_makes_no_difference_is_taken(query: str) -> None:
    """The service does as these say anyway, or the driver does."""
    DatabaseUrl.parse(f"postgresql://db/k?{query}")


@pytest.mark.parametrize(
    ("given", "tls"),
    [
        ("sslmode=require", "postgresql://?sslmode=require"),
        ("ssl=true", "postgresql://?sslmode=require"),
        ("", "postgresql://"),
    ],
)
def test_what_the_driver_is_told_of_tls(given: str, tls: str) -> None:
    """Only what the URI says of it."""
    assert DatabaseUrl.parse(f"postgresql://k:s@db/k?{given}").tls == tls


def test_a_socket_has_no_tls() -> None:
    """Whatever variables of the environment ask for."""
    assert DatabaseUrl.parse("postgresql:///k?host=/run/pg&sslmode=require").tls == "postgresql://?sslmode=disable"


@pytest.mark.parametrize("sslmode", ["", "&sslmode=require", "&sslmode=prefer"])
def test_channel_binding_is_had_by_the_certificate(sslmode: str) -> None:
    """The driver has none, so the server's name and authority are checked instead, which is as good."""
    url = DatabaseUrl.parse(f"postgresql://db/k?channel_binding=require{sslmode}")
    assert (url.tls, url.system_roots) == ("postgresql://?sslmode=verify-full", True)


def test_an_authority_of_ones_own_is_kept(tmp_path: Path) -> None:
    """Both as it was asked for, and where channel binding is."""
    root = tmp_path / "root.pem"
    root.touch()
    given = DatabaseUrl.parse(f"postgresql://db/k?sslmode=verify-ca&channel_binding=require&sslrootcert={root}")
    assert "sslmode=verify-ca" in given.tls
    assert "root.pem" in given.tls
    assert not given.system_roots
    assert DatabaseUrl.parse("postgresql://db/k?sslmode=verify-full&sslrootcert=system").system_roots


def test_a_service_file_gives_what_the_uri_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As libpq has it: the section that is named."""
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
        ("sslmod=require", "parameter sslmod,"),
        ("pgbouncer=true", "parameter pgbouncer,"),
        ("search_path=keys", "parameter search_path,.*options"),
        ("hostaddr=1.2.3.4", "parameter hostaddr,.*as the host"),
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
        ("port=http", "no number"),
        ("sslmode", "NAME=VALUE"),
        ("%zz=1", "%25"),
        ("application_name=%ff", "application_name"),
    ],
)
def test_what_cannot_be_used_is_named(query: str, words: str) -> None:
    """The parameter, its value, and what to do."""
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
def test_no_error_holds_the_password(url: str) -> None:
    """Nor what may be a part of it, where its special characters were not escaped."""
    with pytest.raises(DatabaseUrlError) as caught:
        DatabaseUrl.parse(url)
    for part in ("hunter2", "hun", "ter2"):
        assert part not in str(caught.value)
    assert caught.value.__cause__ is None


def test_it_shows_nothing_of_itself() -> None:
    """It is printed where it was not meant to be, one day."""
    assert repr(DatabaseUrl.parse("postgresql://k:hunter2@db/k")) == "<DatabaseUrl>"


def test_a_hash_in_a_password_is_one() -> None:
    """A connection URI has no fragment."""
    assert DatabaseUrl.parse("postgresql://k:hun#ter2@db/k").password == "hun#ter2"


def test_places_are_written_as_people_do() -> None:
    """A host and a port, or the path of a socket."""
    assert [place("db", 1), place("::1", 2), place("/run", 3)] == ["db:1", "[::1]:2", "/run/.s.PGSQL.3"]
