"""The embedded Postgres on other people's machines: `serve` in odd environments and odd folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.lengths import by_form
from tests.support.process import COMMAND, FRESH, run_command, serving_process
from tests.support.running import assert_gone, family, postmaster, until_database_works

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.process import ServerProcess

LACKING = {
    "LANG": "xx_YY.UTF-8",
    "LC_ALL": "xx_YY.UTF-8",
    "LC_MESSAGES": "de_DE@euro",
    "TZ": "Nowhere/At:all",
    "PGTZ": "Mars",
}
OTHER_DATABASE = {
    "PGHOST": "db.example,other.example",
    "PGPORT": "6543",
    "PGUSER": "alice",
    "PGDATABASE": "shop",
    "PGPASSWORD": "secret",
    "PGPASSFILE": "/nonexistent/pgpass",
    "PGOPTIONS": "-c no.such=1 -c search_path=shop",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/nonexistent/ca.pem",
    "PGSERVICE": "shop",
    "PGSERVICEFILE": "/nonexistent/service",
    "PGDATA": "/nonexistent/data",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
    "PGAPPNAME": "shop",
    "PGCLIENTENCODING": "LATIN1",
}
NO_FOLDERS = {
    "XDG_RUNTIME_DIR": "/nonexistent/run",
    "TMPDIR": "/proc/1/fdinfo",
    "HOME": "/nonexistent/home",
    "USER": "",
}


CHARACTERS = 'it\'s "a" $HOME `id`, b\\c; %s %2C é\u202e\n#?&=@'
BYTES = os.fsdecode(b"not utf-8 \xff")
LENGTH = "/".join(["long" * 20] * 3)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Start processes with this umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def killed(server: ServerProcess) -> Iterator[None]:
    """Kill a server if a test fails, because it may not react to SIGTERM."""
    try:
        yield
    except BaseException:
        server.process.kill()
        raise


@pytest.mark.parametrize(
    "variables",
    by_form(
        [pytest.param(LACKING | OTHER_DATABASE | NO_FOLDERS, id="all of them")],
        [
            pytest.param(LACKING, id="languages"),
            pytest.param(OTHER_DATABASE, id="another database"),
            pytest.param(NO_FOLDERS, id="no folders"),
        ],
    ),
)
def test_no_environment_variable_keeps_it_from_starting(tmp_path: Path, variables: dict[str, str]) -> None:
    """Missing locales and time zones, another database, or folders that do not exist."""
    with serving_process(tmp_path, command=FRESH, **variables) as server:
        assert server.address
        assert server.end() == 0


def test_it_starts_without_a_home_and_with_any_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service can use the files it makes, though the umask closes them to others."""
    monkeypatch.delenv("HOME", raising=False)
    data = tmp_path / "new" / "data"
    with umask(0o777), serving_process(tmp_path, command=FRESH, SKILDER_KEYS_DATA_DIR=str(data)) as server:
        assert server.address
    assert (data / "operator-token").stat().st_mode & 0o777 == 0o600
    assert (data / "postgres").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "name",
    by_form(
        [pytest.param(f"{CHARACTERS}/{BYTES}/{LENGTH}", id="all of it")],
        [
            pytest.param(CHARACTERS, id="characters"),
            pytest.param(BYTES, id="bytes"),
            pytest.param(LENGTH, id="length"),
        ],
    ),
)
def test_it_starts_in_any_folder(tmp_path: Path, name: str) -> None:
    """Whatever characters its path has, and however long it is; a second start finds the data."""
    shutil.copytree(tmp_path, tmp_path / "at", dirs_exist_ok=True)
    (tmp_path / "link").symlink_to(tmp_path / "at" / name)
    for given in (f"at/{name}", "link"):
        with serving_process(tmp_path, SKILDER_KEYS_DATA_DIR=given) as server:
            assert server.address
            assert bool(server.events("migrated")) is (given != "link")
    assert not list((tmp_path / "at" / name / "postgres").glob(".s.PGSQL*"))


def refused(folder: Path, **variables: str) -> str:
    """Return the error of a `serve` that does not start."""
    result = run_command("serve", folder=folder, SKILDER_KEYS_LISTEN="127.0.0.1:0", **variables)
    assert result.returncode == 70, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    """The error says what is wrong and what to do; nothing in the folder changes."""
    (tmp_path / "file").write_text("mine")
    for given in ("file", "file/data", "/proc/data", "/sys/kernel/data"):
        assert f"The data folder {given} cannot be used: " in refused(tmp_path, SKILDER_KEYS_DATA_DIR=given)

    photos = tmp_path / "data" / "postgres"
    photos.mkdir(parents=True)
    (photos / "holiday.jpg").touch()
    told = refused(tmp_path)
    assert f"The embedded Postgres in {photos} did not start: it holds files that are not of Postgres" in told
    assert "'holiday.jpg'" in told
    (photos / "PG_VERSION").write_text("16\n")
    assert "it holds the files of Postgres 16, and this is Postgres 18" in refused(tmp_path)
    (photos / "PG_VERSION").write_text("18\n")
    told = refused(tmp_path)
    assert "Postgres exited with 2, and wrote:\n" in told
    assert 'could not access the server configuration file "' in told, "the words of Postgres itself"
    assert [each.name for each in photos.iterdir() if each.suffix == ".jpg"] == ["holiday.jpg"]
    photos.rename(tmp_path / "photos")
    photos.touch()
    assert f"The embedded Postgres in {photos} did not start: " in refused(tmp_path)


@pytest.mark.usefixtures("with_postgres_files")
def test_stale_locks_with_reused_process_ids_do_no_harm(tmp_path: Path) -> None:
    """Neither that of the data files nor that of the socket; the process that now has the id is left alone."""
    with serving_process(tmp_path) as server:
        assert server.address
    data = tmp_path / "data" / "postgres"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        (data / "postmaster.pid").write_text(f"{bystander.pid}\n{data}\n1\n5432\n{data}\n\n1 1\nready\n")
        (data / ".s.PGSQL.5432.lock").write_text(f"{bystander.pid}\n{data}\n1\n5432\n{data}\n")
        (data / ".s.PGSQL.5432").touch()
        with serving_process(tmp_path) as server:
            assert server.address
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.usefixtures("with_postgres_files")
def test_files_that_were_opened_to_others_are_closed_again(tmp_path: Path) -> None:
    """Some platforms open every folder of a volume to others, and Postgres would refuse it."""
    with serving_process(tmp_path) as server:
        assert server.address
    (tmp_path / "data" / "postgres").chmod(0o2777)
    with serving_process(tmp_path) as server:
        assert server.address


@pytest.mark.usefixtures("with_postgres_files")
def test_in_a_container_it_comes_back_after_a_crash(tmp_path: Path) -> None:
    """Where the service is process 1, it must itself reap a process that was killed."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("root and unshare are needed (Debian: apt-get install util-linux)")
    command: list[str | Path] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", COMMAND]
    with serving_process(tmp_path, command=command) as server, killed(server):
        assert server.address
        # Not by its process id, which is different inside the container.
        database = [each for each in family(server.process.pid) if each.name() == "postgres"]
        (postgres,) = [each for each in database if each.parent() not in database]
        postgres.kill()
        server.wait_for("the embedded Postgres is gone: starting it again")
        until_database_works(server, tmp_path)
        assert psutil.STATUS_ZOMBIE not in [each.status() for each in family(server.process.pid)]
        assert_gone(database)
        left = family(server.process.pid)
        left[0].send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert_gone(left)


@pytest.mark.usefixtures("with_postgres_files")
def test_a_killed_keeper_takes_postgres_along(tmp_path: Path) -> None:
    """Both are started again."""
    with serving_process(tmp_path) as server:
        assert server.address
        before = postmaster(tmp_path / "data")
        keeper = before.parent()
        assert keeper is not None
        keeper.kill()
        assert_gone([keeper, before])
        server.wait_for("the embedded Postgres is gone: starting it again")
        until_database_works(server, tmp_path)
        assert postmaster(tmp_path / "data") != before
