"""`skilder-keys` in a shell of a test: it has the command forked by a fork server, and ends as the fork does.

Only modules that take little time are imported, since a test runs this very often. See `forked.lend_command`.
"""

import _pickle
import _socket
import array
import os
import signal
import sys
from typing import NoReturn

_NUMBER = 4
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(server: int, command: str, start: dict[str, str], prefixes: tuple[str, ...], umask: int) -> NoReturn:
    """Run the command with the arguments of this process, and end as it does.

    Args:
        server: The descriptor of the fork server's socket, which this process has inherited.
        command: The path of the command.
        start: The variables with which the fork server was started.
        prefixes: How the names of such variables begin.
        umask: The umask of the fork server.
    """
    mask = os.umask(0)
    os.umask(mask)
    now = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    is_alike = mask == umask and now == start and all(map(_is_open, range(3)))
    if "serve" in sys.argv[:3] or not is_alike:
        os.execv(command, [command, *sys.argv[1:]])  # noqa: S606 - it takes the place of this process
    code = _forked(server, command)
    if code < 0:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _forked(server: int, command: str) -> int:
    """Have the command forked, pass signals on to it, and return its exit code or the negative number of a signal."""
    connection, theirs = _socket.socketpair()
    sent = array.array("i", [theirs.fileno(), 0, 1, 2])
    _socket.socket(fileno=server).sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sent)])
    theirs.close()
    request = {
        "arguments": [os.fsencode(each) for each in (command, *sys.argv[1:])],
        "folder": os.getcwdb(),  # noqa: PTH109 - pathlib takes long to import
        "variables": dict(os.environb),
        "new_session": False,
    }
    connection.sendall(_pickle.dumps(request))
    pid = int.from_bytes(connection.recv(_NUMBER), sys.byteorder)
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    return int.from_bytes(connection.recv(_NUMBER), sys.byteorder, signed=True)
