"""`audit follow`: across restarts of the service, until Ctrl-C, into a pipe."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from tests.support.forked import Forked
from tests.support.process import COMMAND, environment, run_command, serving_process
from tests.support.running import worker_processes
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import EXAMPLE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def following(folder: Path, *arguments: str, **variables: str) -> Iterator[Forked[str]]:
    """Run `audit follow` with its output in pipes, and kill it where the test fails."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked[str](
        [str(COMMAND), "audit", "follow", *arguments],
        cwd=folder,
        env=environment(variables),
        text=True,
        start_new_session=True,
        **pipes,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_follower_outlives_the_service(database_url: str, tmp_path: Path) -> None:
    """It goes on by itself where it was, prints each event once, and ends quietly."""
    variables = {"SKILDER_KEYS_DATABASE_URL": database_url, "SKILDER_KEYS_WORKERS": "1"}
    with serving_process(tmp_path, **variables) as server:
        address = server.address

        def run(*arguments: str) -> None:
            done = run_command(*arguments, folder=tmp_path, SKILDER_KEYS_SERVER=address)
            assert done.returncode == 0, done.stderr

        run("workspace", "apply", str(EXAMPLE_FILE))
        options = ("-w", "acme", "--after-number", "0", "--json")
        with following(tmp_path, *options, SKILDER_KEYS_SERVER=address) as follower:
            assert follower.stdout is not None
            found = numbers(follower.stdout.readline())
            assert found == [1]
            run("keys", "issue", "-w", "acme", "--all-hats", "First")
            found += numbers(follower.stdout.readline())
            server.end()
            with serving_process(tmp_path, **variables | {"SKILDER_KEYS_LISTEN": address}) as again:
                assert again.address == address
                run("keys", "issue", "-w", "acme", "--all-hats", "Second")
                run("keys", "issue", "-w", "acme", "--all-hats", "Third")
                while len(found) < 4:
                    found += numbers(follower.stdout.readline())
                follower.send_signal(signal.SIGINT)
                rest, errors = follower.communicate(timeout=60)
        assert found == [1, 2, 3, 4]
        assert (rest, follower.returncode) == ("", 130)
        assert "stopped" not in errors
        assert "Error" not in errors


@GRPCIO_IF_SHORT
def test_a_follower_outlives_a_handover(transport: str, database_url: str, tmp_path: Path) -> None:
    """SIGHUP replaces the worker that it follows by; it goes on at the new one, and the old one ends."""
    variables = {
        "SKILDER_KEYS_DATABASE_URL": database_url,
        "SKILDER_KEYS_WORKERS": "1",
        "SKILDER_KEYS_TRANSPORT": transport,
        "SKILDER_KEYS_MAX_CONNECTION_AGE": "2",
    }
    with serving_process(tmp_path, **variables) as server:

        def run(*arguments: str) -> None:
            done = run_command(*arguments, folder=tmp_path, SKILDER_KEYS_SERVER=server.address)
            assert done.returncode == 0, done.stderr

        run("workspace", "apply", str(EXAMPLE_FILE))
        options = ("-w", "acme", "--after-number", "0", "--json")
        with following(tmp_path, *options, SKILDER_KEYS_SERVER=server.address) as follower:
            assert follower.stdout is not None
            found = numbers(follower.stdout.readline())
            (old,) = worker_processes(psutil.Process(server.process.pid))
            server.process.send_signal(signal.SIGHUP)
            while psutil.pid_exists(old.pid):
                run("keys", "issue", "-w", "acme", "--all-hats", f"Key {len(found)}")
                found += numbers(follower.stdout.readline())
            run("keys", "issue", "-w", "acme", "--all-hats", "Last")
            found += numbers(follower.stdout.readline())
            follower.send_signal(signal.SIGINT)
            rest, errors = follower.communicate(timeout=60)
    assert found == list(range(1, len(found) + 1))
    assert (rest, follower.returncode) == ("", 130)
    assert "Error" not in errors


def numbers(line: str) -> list[int]:
    """Return the numbers of the events in a line of JSON."""
    document = json.loads(line)
    assert document["cursor"]
    return [int(each["number"]) for each in document["events"]]
