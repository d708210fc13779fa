"""A process that has loaded the command and forks for each run of it: `python fork_server.py DESCRIPTOR`.

The descriptor is that of a socket to the tests; `tests.support.forked` is at its other end. This process starts no
thread and no event loop and opens no channel. So a fork is like a new interpreter that has just imported the command.

A server that is such a fork also forks its workers, which are like new interpreters that have just imported a worker.
It runs an event loop, but it never uses gRPC.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import gc
import importlib
import io
import os
import pickle
import runpy
import select
import signal
import socket
import struct
import sys
import traceback
import warnings
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

# The command, its parts, and what libraries load late.
_MODULES = (
    *(f"skilder_keys.cli.{name}" for name in ("start", "main", "serve", "service", "authorize", "keys", "workspace")),
    *("encodings.idna", "encodings.utf_8_sig", "grpc._channel", "grpc._interceptor", "pydantic.type_adapter"),
)
# What a worker loads, for servers only.
_MODULES_OF_WORKERS = ("skilder_keys.worker.process", "skilder_keys.transports.grpcio.frontend", "uvloop")
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STANDARD_ERROR = 2


def main() -> None:
    """Fork a process for each request, and report how it ends, until the tests have ended. Each fork returns early."""
    control = socket.socket(fileno=int(sys.argv[1]))
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    sys.path.pop(0)  # this folder, which has modules with the names of others
    atexit.register(_end)  # before all others, so that it runs last
    _build_commands()
    _load(_MODULES)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), *running], [], [])
        for ended in running.keys() & set(ready):
            _report(ended, *running.pop(ended))
        if control.fileno() not in ready:
            continue
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            return
        connection = socket.socket(fileno=descriptors.pop(0))
        with connection.makefile("rb") as received:
            request = pickle.load(received)  # noqa: S301 - the tests sent it
        _prepare(request["arguments"])
        pid = os.fork()
        if pid == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(struct.pack("i", pid))
        running[os.pidfd_open(pid)] = (pid, connection)
    for each in (control, connection, *(of for _, of in running.values())):
        each.close()
    for process in running:
        os.close(process)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    _run(descriptors, **request)


def _prepare(arguments: Sequence[bytes]) -> None:
    if any(b"serve" in each for each in arguments[:2]) and _MODULES_OF_WORKERS[0] not in sys.modules:
        _load(_MODULES_OF_WORKERS)


def _build_commands() -> None:
    """Build all commands, which takes half of the time of most of them; a fork finds them built."""
    commands: Any = importlib.import_module("skilder_keys.cli.commands")
    commands._load = functools.cache(commands._load)  # noqa: SLF001 - nobody else builds all of them
    for name, place in commands._COMMANDS.items():  # noqa: SLF001
        commands._load(name, place)  # noqa: SLF001


def _load(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that no collection in a fork copies the memory that it shares with this process


def _report(process: int, pid: int, connection: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with connection, suppress(BrokenPipeError):  # a test that failed may not wait for it
        connection.sendall(struct.pack("i", code))
    os.close(process)


def _run(
    descriptors: Sequence[int],
    *,
    arguments: list[bytes],
    folder: bytes,
    variables: dict[bytes, bytes],
    new_session: bool,
) -> None:
    """Run a Python script as if this process were a new interpreter that was started for it."""
    if new_session:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environb.clear()
    os.environb.update(variables)
    sys.stdin, sys.stdout, sys.stderr = map(_stream, range(3), "rww", (sys.stdin, sys.stdout, sys.stderr))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]  # as at a start
    sys.argv = [os.fsdecode(each) for each in arguments]
    asyncio.create_subprocess_exec = _start_process  # type: ignore[assignment]  # for workers only
    script = Path(sys.argv[0])
    sys.path.insert(0, str(script.parent))
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = str(script)
    try:
        exec(compile(script.read_bytes(), script, "exec"), main.__dict__)  # noqa: S102 - the interpreter does that
        _exit_codes.append(0)
    except SystemExit as end:
        _exit_codes.append(end.code & 0xFF if isinstance(end.code, int) else int(end.code is not None))
        raise


_exit_codes: list[int] = []


def _end() -> None:
    """End a fork without what an interpreter does last: to free all objects takes longer than most commands.

    A fork that ends by an error, or cannot write what it has to, ends as an interpreter does.
    """
    if _exit_codes:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_exit_codes[0])


def _stream(number: int, mode: Any, before: Any) -> Any:
    """Return a standard stream as the interpreter makes it. `before` is the one of the same variables."""
    unbuffered = before.write_through  # PYTHONUNBUFFERED
    size = 0 if unbuffered and mode == "w" else -1
    buffer: Any = open(number, f"{mode}b", size, closefd=False)  # noqa: SIM115 - it stays open
    getattr(buffer, "raw", buffer).name = before.name
    stream: Any = io.TextIOWrapper(
        buffer,
        encoding=before.encoding,
        errors=before.errors,
        newline="\n",
        line_buffering=not unbuffered and (number == _STANDARD_ERROR or os.isatty(number)),
        write_through=unbuffered,
    )
    stream.mode = mode
    return stream


_create_subprocess_exec = asyncio.create_subprocess_exec


async def _start_process(*command: str, **options: Any) -> Any:
    """Fork a worker, which is a Python module; start any other program as asyncio does."""
    if command[0] != sys.executable or "-m" not in command:
        return await _create_subprocess_exec(*command, **options)
    loop = asyncio.get_running_loop()
    forked: asyncio.Future[int] = loop.create_future()

    def fork() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads
            pid = os.fork()
        if pid == 0:
            _work(command[command.index("-m") + 1 :], options["env"], options["pass_fds"])
        forked.set_result(pid)

    # Not from a task: in the fork, asyncio would take it for the one that runs.
    loop.call_soon(fork)
    return _Worker(await forked)


class _Worker:
    """A forked worker, as its parent uses an `asyncio.subprocess.Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = os.pidfd_open(pid)
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._process, self._reap)

    async def wait(self) -> int:
        """Return the exit code, or the negative number of a signal."""
        return await asyncio.shield(self._code)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._code.done():
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process)
        os.close(self._process)
        self._code.set_result(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))


def _work(command: tuple[str, ...], variables: dict[str, str], descriptors: Sequence[int]) -> NoReturn:
    """Run a worker in this fork of its parent, without anything of the parent's event loop.

    Args:
        command: The name of a module, and its arguments.
        variables: The worker's environment.
        descriptors: What stays open.
    """
    module, *arguments = command
    signal.set_wakeup_fd(-1)
    for number in _IGNORED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    kept = [_STANDARD_ERROR, *sorted(descriptors), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(kept):
        os.closerange(before + 1, after)
    for each in descriptors:
        os.set_inheritable(each, True)  # noqa: FBT003 - it stays open where Envoy takes over
    os.environ.clear()
    os.environ.update(variables)
    code = 1
    try:
        sys.path.pop(0)  # the folder of the parent's script
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the interpreter does that
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
