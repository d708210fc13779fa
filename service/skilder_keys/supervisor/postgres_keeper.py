"""The process between the service and its embedded Postgres: it starts Postgres, and stops it when its parent ends.

`python -I -S postgres_keeper.py FOLDER BINARIES USER`. It needs only the standard library and has one thread. So it can
fork safely, which its parent cannot. The parent sends commands on standard input:

    stop    end the sessions and Postgres (a fast shutdown)
    quit    end at once (an immediate shutdown; the next start recovers)
    (end)   the parent has ended: give the sessions a few seconds to end, then do the same as for stop

On standard output the keeper writes one line of JSON: {"socket": FOLDER} once Postgres accepts connections, or
{"failed": REASON}. It ends when all processes of Postgres have ended. If the keeper is killed, the kernel stops
Postgres.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PG_VERSION = "18"

_SYSTEM_USER = "pgserver"
_USER_MAP = "skilder_keys"
_LOG_BYTES = 10 * 2**20
_QUOTED_LOG_LINES = 8
_QUOTED_LOG_CHARACTERS = 1500
_SOCKET = ".s.PGSQL.5432"
_SOCKET_BYTES = 107  # the limit of sockaddr_un on Linux
# The name under which the programs get the folder that they are started in. With it, Postgres's user needs no access to
# the folders above when root starts the programs, and the path may have any length and any characters.
_HERE = "/proc/self/cwd"
# Paths that the driver accepts as one host.
_PLAIN = re.compile(r"/[A-Za-z0-9_./+@=-]*")

_LOCK_SECONDS = 60.0
_INIT_SECONDS = 120.0
_READY_SECONDS = 180.0  # after a crash Postgres first recovers from its write-ahead log
_POLL_SECONDS = 0.05
# For each command, the signals to send, and the seconds that Postgres has after each of them. SIGKILL comes last. After
# SIGQUIT, Postgres itself kills those of its processes that do not end within 5 s.
_SHUTDOWNS = {
    "stop": ((signal.SIGINT, 30.0), (signal.SIGQUIT, 7.0)),
    "quit": ((signal.SIGQUIT, 7.0),),
    "gone": ((signal.SIGTERM, 3.0), (signal.SIGINT, 3.0), (signal.SIGQUIT, 2.0)),
}

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl


class StartError(Exception):
    """Postgres did not start. The message is for people."""


class Commands:
    """The two events that this process waits for: a command of the parent, and the end of a child.

    Attributes:
        latest: The last command, or None. It is `gone` if the parent has ended without a command.
    """

    def __init__(self) -> None:
        """Read commands from standard input, and handle SIGCHLD."""
        self.latest: str | None = None
        self._is_closed = False
        self._wakeup, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(written)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for a command or the end of a child, at most this many seconds."""
        readable, _, _ = select.select([self._wakeup, *([] if self._is_closed else [0])], [], [], seconds)
        if self._wakeup in readable:
            with suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
        if 0 in readable:
            received = os.read(0, 4096).decode("ascii", "replace").split()
            self._is_closed = not received
            # If the parent sent a command before it ended, that command stays valid.
            self.latest = received[-1] if received else self.latest or "gone"


class Account:
    """The user that Postgres runs as: the current user, or another one if that is root, which Postgres refuses."""

    def __init__(self, folder: Path) -> None:
        """Choose the owner of the database files or, if there are none, a system user that is created for Postgres."""
        self.options: dict[str, int | list[int]] = {}
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.changes = self.uid == 0
        if not self.changes:
            return
        owner = folder.stat() if folder.exists() else None
        if owner is not None and owner.st_uid != 0:
            self.uid, self.gid = owner.st_uid, owner.st_gid
        else:
            entry = _system_user()
            self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.options = {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> Path:
        """Make this user the owner of a file or folder, and return its path."""
        if self.changes:
            os.chown(path, self.uid, self.gid)
        return path

    def let_through(self, path: Path) -> None:
        """Let this user pass through the folders above a path. Set only the execute bit, and only if it is missing."""
        for folder in path.parents if self.changes else ():
            found = folder.stat()
            owns, shares = found.st_uid == self.uid, found.st_gid == self.gid
            needed = stat.S_IXUSR if owns else stat.S_IXGRP if shares else stat.S_IXOTH
            if not found.st_mode & needed:
                folder.chmod(stat.S_IMODE(found.st_mode) | needed)


class Keeper:
    """Starts, watches and stops one Postgres."""

    def __init__(self, folder: Path, binaries: Path, commands: Commands) -> None:
        """Take the folder of the database files, the folder of the programs, and the parent's commands."""
        self._folder = folder
        self._binaries = binaries
        self._commands = commands
        self._child: subprocess.Popen[bytes] | None = None
        self._socket_folder: Path | None = None

    def start(self, connecting_user: str) -> Path:
        """Start Postgres and return the folder of its socket.

        Args:
            connecting_user: The operating system user that may connect, as the database user `postgres`.

        Raises:
            StartError, OSError: Postgres did not start.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        if self._folder.is_dir():
            _check_files(self._folder)
        self._lock = self._folder.with_name(f"{self._folder.name}.lock").open("w")
        # Every process of Postgres inherits this lock. So once this process gets it, none of them is left, even if a
        # stale pid file says otherwise.
        self._wait_until(self._is_locked, _LOCK_SECONDS, "another Postgres still uses the folder")
        account = Account(self._folder)
        _open_programs(self._binaries, account)
        if not (self._folder / "PG_VERSION").exists():
            self._make_files(account)
        self._end_foreign_postgres()
        for name in ("postmaster.pid", _SOCKET, f"{_SOCKET}.lock"):
            (self._folder / name).unlink(missing_ok=True)
        account.own(self._folder).chmod(0o700)
        self._write("pg_hba.conf", f"# Written at every start.\nlocal all postgres peer map={_USER_MAP}\n", account)
        self._write("pg_ident.conf", f'{_USER_MAP} "{connecting_user}" postgres\n', account)
        self._socket_folder = _socket_folder(self._folder, account)
        self._run(account, self._socket_folder)
        return self._socket_folder

    def keep(self) -> None:
        """Wait until Postgres ends or the parent sends a command."""
        while not self._has_ended and self._commands.latest is None:
            self._commands.wait()

    def end(self) -> None:
        """Stop what still runs, as the latest command says, and clean up."""
        child = self._child
        done = 0
        while child is not None and child.poll() is None:
            command = self._commands.latest or "quit"
            steps = _SHUTDOWNS.get(command, _SHUTDOWNS["stop"])[done:]
            if not steps:
                child.kill()
                child.wait()
                break
            number, seconds = steps[0]
            child.send_signal(number)
            end = time.monotonic() + seconds
            while child.poll() is None and self._commands.latest in (command, None) and time.monotonic() < end:
                self._commands.wait(end - time.monotonic())
            # A new command starts with its own first signal.
            done = done + 1 if self._commands.latest in (command, None) else 0
        self._end_orphans()
        if self._socket_folder not in (None, self._folder):
            shutil.rmtree(str(self._socket_folder), ignore_errors=True)

    def _end_orphans(self) -> None:
        """Wait for the processes that a killed Postgres left behind, and kill those that do not end in time."""
        end = time.monotonic() + 2.0
        while True:
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            children = _children()
            if not children:
                return
            if time.monotonic() > end:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
            self._commands.wait(_POLL_SECONDS)

    def _is_locked(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_until(self, condition: Callable[[], bool], seconds: float, problem: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if self._commands.latest is not None:
                raise StartError("it was stopped during its start")
            if time.monotonic() > end:
                raise StartError(f"{problem} after {seconds:.0f} s")
            self._commands.wait(_POLL_SECONDS)

    def _make_files(self, account: Account) -> None:
        """Create the database files in another folder and rename it, so that an interrupted start leaves no part."""
        unfinished = self._folder.with_name(f"{self._folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        account.own(unfinished)
        # Use nothing of the machine's locales and time zones: another machine may have different ones.
        options = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        command = (self._binaries / "initdb", *options, "--auth=peer", "-U", "postgres", "-D", _HERE)
        with open(os.memfd_create("initdb"), "w+b") as output:  # noqa: PTH123 - a descriptor, not a path
            self._child = child = _spawn(command, unfinished, account, output)
            self._wait_until(lambda: self._has_ended, _INIT_SECONDS, "initdb was not done")
            if child.returncode != 0:
                raise StartError(f"initdb exited with {child.returncode}{_last_lines(output, 0)}")
        self._child = None
        unfinished.rename(self._folder)  # this also replaces an empty folder

    @property
    def _has_ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def _end_foreign_postgres(self) -> None:
        """Stop a Postgres that another program started in this folder: it does not hold the lock."""
        if (pid := _running_pid(self._folder)) is not None:
            os.kill(pid, signal.SIGINT)
            problem = f"another Postgres, process {pid}, still uses the folder"
            self._wait_until(lambda: _running_pid(self._folder) != pid, _LOCK_SECONDS, problem)

    def _write(self, name: str, text: str, account: Account) -> None:
        path = self._folder / name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        account.own(path)

    def _run(self, account: Account, socket_folder: Path) -> None:
        settings = {
            "cluster_name": "skilder-keys",
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": "." if socket_folder == self._folder else str(socket_folder),
            "dynamic_shared_memory_type": "posix" if _is_usable(Path("/dev/shm")) else "mmap",  # noqa: S108 - not our file
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with _open_log(self._folder / "log", account) as log:
            before = log.seek(0, os.SEEK_END)
            command = (str(self._binaries / "postgres"), *options, "-D", _HERE)
            self._child = _spawn(command, self._folder, account, log, pass_fds=(self._lock.fileno(),))
            try:
                self._wait_until(lambda: self._is_ready or self._has_ended, _READY_SECONDS, "it was not ready")
            except StartError as error:
                raise StartError(f"{error}{_last_lines(log, before)}") from None
            if self._has_ended:
                raise StartError(f"Postgres exited with {self._child.returncode}{_last_lines(log, before)}")

    @property
    def _is_ready(self) -> bool:
        with suppress(OSError):
            lines = (self._folder / "postmaster.pid").read_bytes().splitlines()
            return bool(lines) and lines[-1].strip() == b"ready"
        return False


def _spawn(
    command: Sequence[str | Path], folder: Path, account: Account, output: BinaryIO, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a program of Postgres in a folder, without environment variables that could change what it does."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    child: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]  # noqa: S603 - no shell
        command,
        cwd=folder,
        env={**kept, "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_prepare_child,  # noqa: PLW1509 - this process has one thread
        pass_fds=pass_fds,
        umask=0o077,
        **account.options,  # user, group, extra_groups
    )
    return child


def _prepare_child() -> None:
    """Make the kernel stop this child if its parent is killed, and unblock the signals."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _system_user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam(_SYSTEM_USER)
    try:
        command = ["useradd", "--system", "--no-create-home", _SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - no shell; its folder differs
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        reason = getattr(error, "stderr", b"") or str(error).encode()
        raise StartError(
            f"Postgres refuses to run as root, and a user {_SYSTEM_USER} could not be created "
            f"({reason.decode(errors='replace').strip()}): start the service as another user"
        ) from None


def _check_files(folder: Path) -> None:
    """Raise StartError if a folder holds files of another version, or files that do not belong to Postgres."""
    version = folder / "PG_VERSION"
    if version.exists():
        found = version.read_text("ascii", "replace").strip()[:20]
        if found != PG_VERSION:
            raise StartError(
                f"it holds the files of Postgres {found}, and this is Postgres {PG_VERSION}: "
                "move them with pg_dump, or set another data folder"
            )
    elif others := sorted(each.name for each in folder.iterdir()):
        raise StartError(f"it holds files that are not of Postgres, such as {others[0]!r}: set another data folder")


def _open_programs(binaries: Path, account: Account) -> None:
    """Let Postgres's user read the programs and their files, if the package was installed for root only."""
    account.let_through(binaries / "postgres")
    wanted = stat.S_IROTH | stat.S_IXOTH
    if account.changes and (binaries / "postgres").stat().st_mode & wanted != wanted:
        for parent, _, names in os.walk(binaries.parents[1]):
            for path in (Path(parent), *(Path(parent) / name for name in names)):
                mode = stat.S_IMODE(path.stat().st_mode)
                path.chmod(mode | (mode & 0o700) >> 6)


def _socket_folder(folder: Path, account: Account) -> Path:
    """Return a folder for the socket: that of the files, or a new one if its path is too long or not plain."""
    if _is_for_sockets(folder):
        return folder
    parents = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108 - mkdtemp creates a private folder there
    with suppress(OSError):
        parents.insert(0, Path(tempfile.gettempdir()))
    for parent in parents:
        with suppress(OSError):
            new = Path(tempfile.mkdtemp(prefix="skilder-keys-", dir=parent))
            if _is_for_sockets(new):
                return account.own(new)
            new.rmdir()
    raise StartError(
        "its path is too long or has special characters, and no other folder is usable for the socket: set TMPDIR"
    )


def _is_for_sockets(folder: Path) -> bool:
    text = str(folder)
    return _PLAIN.fullmatch(text) is not None and len(f"{text}/{_SOCKET}") <= _SOCKET_BYTES


def _open_log(path: Path, account: Account) -> BinaryIO:
    with suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES:
            path.rename(path.with_name("log.old"))
    log = path.open("a+b")
    account.own(path)
    return log


def _is_usable(folder: Path) -> bool:
    with suppress(OSError):
        found = folder.stat()
        return os.access(folder, os.W_OK) and (os.geteuid() != 0 or bool(found.st_mode & stat.S_IWOTH))
    return False


def _last_lines(log: BinaryIO, begin: int) -> str:
    log.seek(begin)
    lines = log.read().decode("utf-8", "replace").splitlines()[-_QUOTED_LOG_LINES:]
    return f", and wrote:\n{chr(10).join(lines)[-_QUOTED_LOG_CHARACTERS:]}" if lines else ", and wrote nothing"


def _running_pid(folder: Path) -> int | None:
    """Return the process id of the Postgres that runs in a folder, which is its working directory, or None."""
    try:
        pid = int((folder / "postmaster.pid").read_bytes().splitlines()[0])
        runs_here = Path(f"/proc/{pid}/cwd").samefile(folder)
        is_postgres = Path(f"/proc/{pid}/comm").read_bytes().startswith(b"postgres")
    except (OSError, ValueError, IndexError):
        return None
    return pid if runs_here and is_postgres else None


def _children() -> list[int]:
    """Return the ids of the child processes of this process."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with suppress(OSError):
                # The name, in parentheses, may contain any characters.
                fields = (each / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.append(int(each.name))
    return found


def main(folder: str, binaries: str, connecting_user: str) -> int:
    """Run as the module docstring describes, and return the exit code."""
    # A signal that is sent to all processes stops the service and Postgres; this process ends after them.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    keeper = Keeper(Path(folder), Path(binaries), Commands())
    try:
        result = {"socket": str(keeper.start(connecting_user))}
    except (StartError, OSError, subprocess.SubprocessError) as error:
        result = {"failed": str(error)}
    try:
        with suppress(BrokenPipeError):
            os.write(1, json.dumps(result).encode() + b"\n")
        if "socket" in result:
            keeper.keep()
    finally:
        keeper.end()
    return 0 if "socket" in result else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
