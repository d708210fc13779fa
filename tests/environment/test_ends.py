"""However the service or a test run ends, nothing of it keeps running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from skilder_keys.supervisor import watchdog
from tests.support import reaper
from tests.support.lengths import by_form
from tests.support.process import FRESH, environment, serving_process
from tests.support.running import assert_gone, family, postmaster

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
RUN = """
import os, pathlib
from tests.support.process import serving_process

def test_that_takes_long(postgres_url):
    with serving_process(pathlib.Path(os.environ["FOLDER"])) as server:
        pathlib.Path(os.environ["STARTED"]).write_text(server.address)
        server.wait_for("what never comes")
"""


@pytest.mark.parametrize("transport", by_form(["grpcio"], ["grpcio", "envoy"]), indirect=True)
@pytest.mark.usefixtures("with_postgres_files")
def test_a_killed_server_leaves_nothing_running(transport: str, tmp_path: Path) -> None:
    """Neither its workers, one of them frozen, nor its Postgres; the next start finds the data."""
    with serving_process(tmp_path, command=FRESH, transport=transport, SKILDER_KEYS_WORKERS="2") as server:
        assert server.address
        left = family(server.process.pid)
        assert {each.pid for each in server.workers().values()} | {postmaster(tmp_path / "data").pid} < {
            each.pid for each in left
        }
        server.workers()[1].suspend()
        server.process.kill()
        assert_gone(left)
    with serving_process(tmp_path, transport=transport) as server:
        assert server.address
        assert server.events("migrated") == []


@pytest.mark.parametrize(
    "step",
    by_form(["skilder_keys.worker"], ["postgres_keeper.py", "initdb", "postgres", "skilder_keys.worker"]),
)
def test_a_killed_start_leaves_nothing_running(request: pytest.FixtureRequest, tmp_path: Path, step: str) -> None:
    """At every step; the next start repairs what the first one left unfinished."""
    if step != "initdb":
        request.getfixturevalue("with_postgres_files")

    def has_begun(each: psutil.Process) -> bool:
        return any(step in {part, Path(part).name} for part in each.cmdline())

    with serving_process(tmp_path, command=FRESH) as server:
        left = seen_once(server.process.pid, has_begun)
        server.process.kill()
        assert_gone(left)
    if step == "initdb":
        with serving_process(tmp_path) as server:
            assert server.address


def seen_once(pid: int, condition: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Wait until a descendant of a process is as wanted, and return all descendants."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = family(pid)
        for each in found:
            try:
                if condition(each):
                    return found
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    raise AssertionError("it has not started")


@pytest.mark.usefixtures("with_postgres_files")
def test_a_second_signal_stops_everything_at_once(tmp_path: Path) -> None:
    """Signals within a second count as one; a later one ends everything, Postgres included."""
    with serving_process(tmp_path, SKILDER_KEYS_DRAIN_DELAY="600") as server:
        assert server.address
        left = family(server.process.pid)
        for _ in range(5):
            server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        time.sleep(1.1)
        assert server.process.poll() is None
        assert server.end() == 128 + signal.SIGTERM
        assert_gone(left)
        assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists(), "Postgres has ended by itself"


@pytest.mark.usefixtures("with_postgres_files")
def test_a_server_ends_though_its_watchdog_is_frozen(tmp_path: Path) -> None:
    """It waits for the watchdog, which may have workers to kill, but not for ever."""
    with serving_process(tmp_path) as server:
        assert server.address
        left = family(server.process.pid)
        (dog,) = (each for each in left if watchdog.__file__ in each.cmdline())
        dog.suspend()
        assert server.end() == 0
        assert_gone(left)


@pytest.mark.parametrize("number", by_form([signal.SIGINT], [signal.SIGTERM, signal.SIGINT]))
@pytest.mark.usefixtures("with_postgres_files")
def test_a_signal_to_make_serve_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to the process group reaches the service twice, since make passes it on."""
    variables = {
        "SKILDER_KEYS_DATA_DIR": str(tmp_path / "data"),
        "SKILDER_KEYS_LISTEN": "127.0.0.1:0",
        "SKILDER_KEYS_LOG_FORMAT": "json",
    }
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            ["make", "serve"],  # noqa: S607 - wherever make is
            cwd=ROOT,
            env=environment(variables),
            stderr=output,
            stdout=output,
            start_new_session=True,
        ) as make,
    ):
        while '"serving"' not in log.read_text() or '"address"' not in log.read_text():
            assert make.poll() is None, log.read_text()
            time.sleep(0.05)
        left = family(make.pid)
        os.killpg(make.pid, number)
        os.killpg(make.pid, number)
        assert_gone(left)
    assert '"stopped"' in log.read_text(), "it drained instead of being killed"
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("number", by_form([signal.SIGKILL], [signal.SIGTERM, signal.SIGKILL]))
@pytest.mark.usefixtures("with_postgres_files")
def test_a_killed_test_run_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    """Neither its Postgres nor its services, though pytest itself had no chance to stop anything."""
    (tmp_path / "run.py").write_text(RUN)
    started = tmp_path / "started"
    options: tuple[str | Path, ...] = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        "-c",
        ROOT / "pyproject.toml",
    )
    command = [sys.executable, "-m", "pytest", *options, tmp_path / "run.py"]
    with (
        (tmp_path / "log").open("w") as log,
        tempfile.TemporaryDirectory(prefix="skilder-keys-tests-") as files,  # a killed run removes none of its files
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "STARTED": str(started), "FOLDER": str(tmp_path), "TMPDIR": files},
            stdout=log,
            stderr=log,
        ) as run,
    ):
        while not started.exists():
            assert run.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        left = family(run.pid)
        mark = next(each.environ()[reaper.MARK] for each in left if reaper.MARK in each.environ())
        assert mark != os.environ[reaper.MARK]
        run.send_signal(number)
        assert_gone(left)
    assert reaper.marked(mark) == []
