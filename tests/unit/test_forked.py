"""A forked process is like one that was started: whatever it can see is the same."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.forked import Forked, lend_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PIPE = subprocess.PIPE
PIPES = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
STREAMS = "encoding", "errors", "newlines", "line_buffering", "write_through", "mode", "name"
REPORT = f"""
import json, os, resource, signal, sys, threading, warnings
streams = sys.stdin, sys.stdout, sys.stderr
print(json.dumps({{
    "arguments": sys.argv,
    "variables": dict(os.environ),
    "folder": os.getcwd(),
    "path": sys.path,
    "main": [__name__, __package__, sys.modules["__main__"].__dict__ is globals()],
    "streams": [[getattr(each, name) for name in {STREAMS}] for each in streams],
    "buffers": [[type(each.buffer).__name__, each.buffer.mode, each.isatty(), each.fileno()] for each in streams],
    "the originals": streams == (sys.__stdin__, sys.__stdout__, sys.__stderr__),
    "signals": {{each.name: str(signal.getsignal(each)).partition(" at ")[0] for each in signal.valid_signals()
                if isinstance(each, signal.Signals)}},
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "session": os.getsid(0) == os.getpid() or os.getsid(0),
    "group": os.getpgrp() == os.getpid() or os.getpgrp(),
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "threads": os.listdir("/proc/self/task") == [str(os.getpid())],
    "umask": os.umask(0o22),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "executable": sys.executable,
    "flags": list(sys.flags),
    "warnings": len(warnings.filters),
    "encodings": [sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()],
    "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, sys.gettrace()],
}}))
"""


@pytest.fixture(params=[subprocess.Popen, Forked], ids=["started", "forked"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A function that runs a Python program, in a new interpreter or forked."""
    return lambda program, *arguments, **options: run(request.param, tmp_path, program, *arguments, **options)


def run(kind: Any, folder: Path, program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Run a Python program."""
    script = folder / "script"
    script.write_text(program)
    interpreter = [sys.executable] if kind is subprocess.Popen else []
    return kind([*interpreter, script, *arguments], text=True, **options)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONUNBUFFERED": "1", "LINES": "Köln"},
        {"PYTHONUNBUFFERED": "", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "1"},
    ],
    ids=["none", "C", "options"],
)
@pytest.mark.parametrize("new_session", [True, False])
def test_it_sees_what_a_new_interpreter_sees(
    tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, new_session: bool
) -> None:
    """Arguments, environment, streams, descriptors, signals, session: each is the same."""
    monkeypatch.setenv("SET_LATER", "by a test")
    seen = []
    for kind in (subprocess.Popen, Forked):
        env = {**os.environ, **variables}
        with run(
            kind,
            tmp_path,
            REPORT,
            "--flag",
            "ü",
            "\udcff",
            cwd=tmp_path,
            env=env,
            start_new_session=new_session,
            **PIPES,
        ) as process:
            stdout, stderr = process.communicate("")
        assert (process.returncode, stderr) == (0, "")
        seen.append(json.loads(stdout))
    for name, started in seen[0].items():
        assert seen[1][name] == started, name
    assert seen[0]["session"] is new_session or seen[0]["session"] == os.getsid(0)


@pytest.mark.parametrize(
    ("program", "code", "error"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(70)", 70, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("import os; os._exit(3)", 3, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit, sys; atexit.register(print, 'end', file=sys.stderr)", 0, "end\n"),
        ("import os, sys; sys.stdout = os.fdopen(1, 'w'); print('lost'); os.close(1)", 120, ""),
        ("import threading, time, os; threading.Thread(target=lambda: (time.sleep(0.1), os._exit(4))).start()", 4, ""),
    ],
)
def test_it_ends_with_its_code(
    start: Callable[..., subprocess.Popen[str]], program: str, code: int, error: str
) -> None:
    """Or by a signal, after what a program does at its end."""
    with start(program, **PIPES) as process:
        _, stderr = process.communicate()
    assert process.returncode == code
    assert error in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_receives_signals(start: Callable[..., subprocess.Popen[str]], number: signal.Signals) -> None:
    """The one who waits learns which, and its id is known before."""
    # A shell without job control has the commands that it starts with `&` ignore SIGINT, and nohup SIGHUP.
    heed = "" if number == signal.SIGKILL else f"signal.signal({int(number)}, signal.SIG_DFL); "
    program = f"import os, signal; {heed}print(os.getpid(), flush=True); input()"
    with start(program, **PIPES) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(60) == -number
        assert process.poll() == -number


def test_much_goes_in_and_out(start: Callable[..., subprocess.Popen[str]]) -> None:
    """And an argument may be long."""
    long = "x" * 100_000
    program = "import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write(sys.argv[1] * 20)"
    with start(program, long, **PIPES) as process:
        stdout, stderr = process.communicate("much " * 1_000_000)
    assert stdout == "much " * 1_000_000
    assert stderr == long * 20


def test_several_run_at_the_same_time(tmp_path: Path) -> None:
    """Each has its own input, and its own random numbers."""
    (tmp_path / "script").write_text("import random, sys; print(sys.stdin.read(), random.random())")

    def one(number: int) -> str:
        with Forked[str]([tmp_path / "script"], text=True, stdin=PIPE, stdout=PIPE) as process:
            return str(process.communicate(str(number))[0])

    with ThreadPoolExecutor(8) as threads:
        printed = [each.split() for each in threads.map(one, range(40))]
    assert [each[0] for each in printed] == [str(number) for number in range(40)]
    assert len({each[1] for each in printed}) == len(printed)


def test_what_it_is_forked_from_has_one_thread(tmp_path: Path) -> None:
    """A fork has none of the other threads, so what they hold would stay locked."""
    program = "import os; print(os.listdir(f'/proc/{os.getppid()}/task') == [str(os.getppid())])"
    with run(Forked, tmp_path, program, **PIPES) as process:
        assert process.communicate()[0] == "True\n"


def test_a_process_that_nobody_waits_for_harms_no_other(tmp_path: Path) -> None:
    """As after a test that failed."""
    first = run(Forked, tmp_path, "import time; time.sleep(0.2)")
    del first
    with run(Forked, tmp_path, "import time; time.sleep(0.5)") as process:
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("script", "printed", "code"),
    [
        ("tried a 'b c' < in; echo $?", "['a', 'b c'] forked: the input\n7\n", 0),
        ("tried killed < in; exit $?", "['killed'] forked: the input\n", 128 + signal.SIGKILL),
        ("exec tried waits < in", "['waits'] forked: the input\n", -signal.SIGTERM),
        ("umask 0; tried < in", "[] started: the input\n", 7),
        ("LC_ALL=POSIX tried < in", "[] started: the input\n", 7),
        ("tried serve < in 2>&-", "['serve'] started: the input\n", 7),
        ("tried < in 2>&-", "[] started: the input\n", 7),
    ],
)
def test_a_shell_has_the_command_forked(tmp_path: Path, script: str, printed: str, code: int) -> None:
    """It ends as the command does. What a fork cannot have, as another umask or a closed stream, needs a real start."""
    command = tmp_path / "real" / "tried"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\n{TRIED}")
    command.chmod(0o755)
    (tmp_path / "in").write_text("the input\n")
    inherited = lend_command(tmp_path, command, os.environ)
    variables = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command_line = ["/bin/bash", "-c", f"cd {shlex.quote(str(tmp_path))}; {script}"]
    with subprocess.Popen(command_line, env=variables, stdout=PIPE, text=True, pass_fds=[inherited]) as shell:
        assert shell.stdout is not None
        found = shell.stdout.readline()
        if "waits" in script:
            shell.terminate()
        found += shell.stdout.read()
    assert (found, shell.returncode) == (printed, code)


TRIED = """
import os, signal, sys, time
loaded = "forked" if "skilder_keys.cli.main" in sys.modules else "started"
print(f"{sys.argv[1:]} {loaded}: {sys.stdin.read().strip()}", flush=True)
if "killed" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
if "waits" in sys.argv:
    time.sleep(600)
sys.exit(7)
"""
