"""A worker process as its parent sees it, where the process misbehaves."""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from skilder_keys.auth.errors import CallersFileError
from skilder_keys.config import Settings
from skilder_keys.supervisor import worker_process
from skilder_keys.supervisor.supervisor import WORKER_COMMAND
from skilder_keys.supervisor.worker_process import StartError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTINGS = Settings(listen="127.0.0.1:7000", reflection=False)
URL = "postgresql://keys:hunter2@db/keys"
# The beginning of each program: `parent` is its end of the socket, `order` the first message.
PRELUDE = """
import json, signal, socket, sys, time
connection = socket.socket(fileno=int(sys.argv[1]))
parent = connection.makefile("r")
order = json.loads(parent.readline())

def say(message):
    connection.sendall(json.dumps(message).encode() + b"\\n")

"""
READY = 'say({"ready": "127.0.0.1:7000"})\n'
FAILED = 'say({"failed": {"kind": "%s", "message": "%s"}})\n'


async def start(program: str) -> WorkerProcess:
    """Start a program as a worker."""
    command = (sys.executable, "-c", PRELUDE + program)
    return await WorkerProcess.start(command, SETTINGS, URL, 3)


@asynccontextmanager
async def started(program: str) -> AsyncIterator[WorkerProcess]:
    """Yield a worker, and end it."""
    worker = await start(program)
    try:
        yield worker
    finally:
        await worker.end(0)
        assert not psutil.pid_exists(worker.pid), "the wait for it has ended"


async def test_a_worker_receives_its_settings_and_the_database() -> None:
    """Over the socket only. Settings with default values are left out."""
    async with started(READY + 'parent.readline()\nsay({"metrics": [order]})\nparent.readline()') as worker:
        assert worker.runs
        expected = {
            "worker": 3,
            "settings": {"listen": "127.0.0.1:7000", "reflection": False},
            "database_url": URL,
            "folder": str(worker.folder),
            "memory": None,
        }
        assert await metrics_of(worker) == [expected]
        process = psutil.Process(worker.pid)
        assert URL not in str([process.cmdline(), process.environ()])


async def metrics_of(worker: WorkerProcess) -> Any:
    """Return the metrics that a worker reports, however slow it is; here they may be anything."""
    response = None
    while response is None:
        response = await worker.metrics()
    return response


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "A worker ended before it served."),
        ("signal.raise_signal(signal.SIGKILL)", "A worker ended before it served."),
        ('connection.sendall(b"no JSON\\n")\ntime.sleep(600)', "A worker ended before it served."),
        ("time.sleep(600)", "A worker was not ready within 1 s."),
        (FAILED % ("KeyError", "KeyError"), "did not start: KeyError"),
    ],
    ids=["ends", "is killed", "talks nonsense", "never serves", "fails"],
)
async def test_a_worker_that_does_not_serve_is_reported_and_ended(
    program: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does instead, the wait for it is bounded, and nothing of it is left."""
    if "sleep" in program:
        monkeypatch.setattr(worker_process, "_READY_SECONDS", 1.0)
    with pytest.raises(StartError, match=message):
        await start(program)
    left = [each for each in psutil.Process().children() if PRELUDE in "\n".join(each.cmdline())]
    assert left == []


async def test_a_start_that_is_given_up_logs_no_error() -> None:
    """The worker is killed before anybody waits until it serves."""
    gc.collect()  # what other tests have left would be reported here
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))

    async def given_up() -> None:
        raise asyncio.CancelledError

    command = (sys.executable, "-c", PRELUDE + 'say({"prepared": None})\ntime.sleep(600)')
    with pytest.raises(asyncio.CancelledError):
        await WorkerProcess.start(command, SETTINGS, URL, 3, given_up)
    await asyncio.sleep(0)
    gc.collect()
    loop.set_exception_handler(None)
    assert errors == []


async def test_a_worker_names_an_option_that_it_does_not_know(transport: str) -> None:
    """A worker of another version, which a parent starts again after the code was replaced."""

    class OtherSettings(Settings):
        other_option: int = 0

    settings = OtherSettings(listen="127.0.0.1:0", transport=transport, other_option=1)
    with pytest.raises(StartError, match="other_option") as failed:
        await WorkerProcess.start(WORKER_COMMAND, settings, URL, 3)
    assert "hunter2" not in str(failed.value)


async def test_a_workers_error_is_raised_with_its_own_type() -> None:
    """So that the command reports it as if it had happened in the parent."""
    with pytest.raises(CallersFileError, match="is not YAML"):
        await start(FAILED % ("CallersFileError", "c.yaml: is not YAML"))


async def test_a_worker_that_does_not_end_is_killed() -> None:
    """Also one that is frozen."""
    async with started("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(600)") as worker:
        psutil.Process(worker.pid).suspend()
        assert not await worker.end(0.1)
        assert await worker.ended() == -9
        assert not worker.runs


async def test_a_frozen_worker_is_asked_for_its_metrics_once() -> None:
    """So requests do not pile up; when it continues, it responds."""
    program = """
for number, line in enumerate(parent):
    if json.loads(line) == {"ask": "metrics"}:
        say({"metrics": [number]})
"""
    async with started(READY + program) as worker:
        assert await metrics_of(worker) == [0]
        process = psutil.Process(worker.pid)
        process.suspend()
        for _ in range(3):
            assert await worker.metrics() is None
        process.resume()
        assert [await metrics_of(worker) for _ in range(2)] == [[1], [2]]
        worker.kill()
        await worker.ended()
        assert await worker.metrics() is None
