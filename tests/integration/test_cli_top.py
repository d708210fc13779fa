"""`top` on real terminals: the numbers are those of the calls, and the terminal is as it was, however it ends."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from tests.support.lengths import by_form
from tests.support.live_screen import LiveScreen, rows_of
from tests.support.postgres import new_database
from tests.support.process import COMMAND, run_command, serving_process
from tests.support.workspaces import EXAMPLE_FILE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.support.process import ServerProcess

_GATEWAY = "gateway-token-of-the-tests-0123456789abcdef"
_NAME = "東京支店 بوت \U0001f469\u200d\U0001f4bb"
_FIRST = _NAME.split(maxsplit=1)[0]
_TOOL = "slack.slack_post_message"


@dataclass(frozen=True)
class Watched:
    """A server with a metrics page, a key, and where commands run."""

    server: ServerProcess
    folder: Path
    token: str

    @property
    def variables(self) -> dict[str, str]:
        """The variables by which a command finds the server."""
        address = self.server.address
        metrics = str(self.server.events("serving")[0]["metrics"])
        return {"SKILDER_KEYS_SERVER": address, "SKILDER_KEYS_METRICS_LISTEN": metrics}

    def top(
        self, *arguments: str, columns: int = 80, lines: int = 24, more: Mapping[str, str] | None = None
    ) -> LiveScreen:
        """Run `top` on a terminal."""
        options = ("--interval", "1s", *arguments)
        return LiveScreen(
            "top", *options, folder=self.folder, columns=columns, lines=lines, **self.variables | dict(more or {})
        )

    def call(self, *tools: str) -> None:
        """Authorize the key once for each tool, as the gateway."""
        with grpc.insecure_channel(self.server.address) as channel:
            for tool in tools:
                AuthorizationServiceStub(channel).Authorize(
                    pb.AuthorizeRequest(token=self.token, tool_id=tool),
                    metadata=(("authorization", f"Bearer {_GATEWAY}"),),
                    timeout=60,
                )


def variables_of_server(folder: Path, url: str) -> dict[str, str]:
    """Write a callers file, and return the variables of a server with a metrics page."""
    digest = hashlib.sha256(_GATEWAY.encode()).hexdigest()
    callers = folder / "callers.yaml"
    callers.write_text(f"callers:\n  - {{name: gateway, role: service, token_sha256: {digest}}}\n")
    return {
        "SKILDER_KEYS_DATABASE_URL": url,
        "SKILDER_KEYS_CALLERS": str(callers),
        "SKILDER_KEYS_WORKERS": "2",
        "SKILDER_KEYS_METRICS_LISTEN": "127.0.0.1:0",
        "SKILDER_KEYS_ACTIVITY_FOLD_INTERVAL": "1",
    }


@pytest.fixture(scope="module")
async def watched(postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A server that the tests of this module share."""
    folder = tmp_path_factory.mktemp("top")
    async with new_database(postgres_url, template) as url:
        with serving_process(folder, **variables_of_server(folder, url)) as server:
            variables = {"SKILDER_KEYS_SERVER": server.address}
            for arguments in (
                ("workspace", "apply", str(EXAMPLE_FILE)),
                ("keys", "issue", "-w", "acme", "--all-hats", _NAME),
            ):
                done = run_command(*arguments, folder=folder, **variables)
                assert done.returncode == 0, done.stderr
            yield Watched(server, folder, done.stdout.strip())


def has_rates(shown: list[str]) -> bool:
    """Return whether two metrics pages were compared, and the service was asked for keys."""
    return "rates of" in shown[-1] and "counted until" in shown[-1]


def test_the_numbers_are_those_of_the_calls(watched: Watched) -> None:
    """By method, verdict, reason, caller, key and tool; each worker has its mode and its lease. `q` quits."""
    watched.call(_TOOL)
    with watched.top(columns=160) as screen:
        screen.until(has_rates)
        watched.call(*[_TOOL] * 20, *["no-such-tool"] * 7)
        shown = screen.until(lambda shown: rows_of(shown, "Authorize").get("Authorize", [])[-1:] == ["27"])
        found = rows_of(shown, "tool_not_allowed", "gateway")
        assert {name: of[-1] for name, of in found.items()} == {"tool_not_allowed": "7", "gateway": "27"}
        shown = screen.until(lambda shown: any(re.search(rf"28 +7  WSK_\w+ {_FIRST}", each) for each in shown))
        assert any(re.search(rf"21 +0  {re.escape(_TOOL)}", each) for each in shown)
        assert "2 of 2 workers up" in "\n".join(shown)
        assert [len(re.findall(rf"\d+ m?s  {worker} cached", "\n".join(shown))) for worker in (0, 1)] == [1, 1]
        screen.type("q")
        assert screen.wait() == 0
        assert screen.is_as_before()
        assert screen.too_wide == []
    assert "Traceback" not in screen.received.decode()


def test_the_view_fits_a_terminal_of_any_size_also_while_it_runs(watched: Watched) -> None:
    """Each line, whatever the names; the kernel reports a new size."""
    watched.call(_TOOL)
    with watched.top() as screen:
        screen.until(has_rates)
        for columns, lines in ((40, 24), (200, 50), (80, 24), (25, 6), (1, 1), (80, 12)):
            screen.resize(columns, lines)
            shown = screen.until(lambda shown, lines=lines: len(shown) == lines)  # type: ignore[misc]  # the size now
            assert columns < 80 or shown[-1].startswith("q quits, every 1s")
        assert screen.too_wide == []
        screen.type("Q")
        assert (screen.wait(), screen.is_as_before()) == (0, True)


@pytest.mark.parametrize(
    ("end", "code"),
    by_form(
        [("\x03", 130), (signal.SIGTERM, -signal.SIGTERM)],
        [("\x03", 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP), ("q", 0)],
    ),
)
def test_the_terminal_is_given_back_however_it_ends(watched: Watched, end: str | signal.Signals, code: int) -> None:
    """By a key, by Ctrl-C, or by a signal, which whoever waits sees."""
    with watched.top() as screen:
        screen.until(lambda shown: "q quits" in shown[-1])
        assert screen.is_full()
        if isinstance(end, str):
            screen.type(end)
        else:
            screen.process.send_signal(end)
        assert (screen.wait(), screen.is_as_before()) == (code, True)
        assert b"Traceback" not in screen.received


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back(watched: Watched) -> None:
    """In a real shell with jobs."""
    shell = ("--norc", "--noprofile", "-i")
    with LiveScreen(
        *shell, folder=watched.folder, columns=80, lines=24, command="/bin/bash", PS1="ready> ", **watched.variables
    ) as screen:
        screen.until_text("ready> ")
        screen.type(f"{COMMAND} top --interval 1s\n")
        screen.until(lambda shown: "q quits" in shown[-1])
        screen.type("\x1a")
        screen.until_text("Stopped")
        assert not screen.is_full()
        frames = screen.frames
        screen.type("fg\n")
        screen.until(lambda shown: screen.frames > frames and "q quits" in shown[-1])
        assert screen.is_full()
        screen.type("q")
        screen.until_text("ready> ", times=3)
        screen.type("echo ended $?\n")
        screen.until_text("ended 0")
        screen.type("exit\n")
        screen.wait()


def test_ctrl_z_without_a_shell_changes_nothing(watched: Watched) -> None:
    """As where ssh runs the command alone: nobody could continue it, so the kernel does not stop it."""
    with watched.top() as screen:
        screen.until(lambda shown: "q quits" in shown[-1])
        frames = screen.frames
        screen.type("\x1a")
        screen.until_text("\x1b[?1049h", times=2)
        screen.until(lambda _: screen.frames > frames)
        assert screen.is_full()
        screen.type("q")
        assert (screen.wait(), screen.is_as_before()) == (0, True)


def test_a_terminal_without_utf8_and_without_colours_gets_ascii(watched: Watched) -> None:
    """A character that it does not have is escaped."""
    more = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1"}
    watched.call(_TOOL)
    with watched.top(more=more) as screen:
        shown = screen.until(lambda shown: has_rates(shown) and any("WSK_" in each for each in shown))
        screen.type("q")
        assert screen.wait() == 0
    assert screen.received.isascii()
    assert "\\u6771" in "\n".join(shown)
    styles = set(re.findall(rb"\x1b\[[0-9;]*m", screen.received))
    assert styles <= {b"\x1b[0m"}, "only the end of all styles, at the end"
    assert screen.too_wide == []


def test_without_a_terminal_it_prints_one_view_and_ends(watched: Watched) -> None:
    """With tabs between values, for programs. What a name has that could control a terminal is escaped."""
    watched.call(_TOOL)
    for arguments in (("top", "--interval", "1s"), ("top", "--once", "--interval", "1s", "-w", "acme")):
        done = run_command(*arguments, folder=watched.folder, **watched.variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        tables = [[line.split("\t") for line in part.splitlines()] for part in done.stdout.split("\n\n")]
        assert [table[0][-1] for table in tables] == [
            "2 of 2 workers up",
            "method",
            "denied, by reason",
            "slowest caller",
            "worker, mode",
            "key, last 5 minutes",
            "tool, last 5 minutes",
            tables[-1][0][0],
        ]
        assert [row[-1] for row in tables[4][1:]] == ["0 cached", "1 cached"]
        assert any(row[-1].endswith(_NAME) for row in tables[5][1:])
        assert all(len(row) == len(table[0]) for table in tables[1:-1] for row in table)


def test_once_on_a_terminal_prints_tables_that_fit(watched: Watched) -> None:
    """And nothing of the screen is taken over."""
    with watched.top("--once") as screen:
        assert (screen.wait(), screen.is_as_before()) == (0, True)
    text = screen.received.decode()
    assert "method" in text
    assert "\x1b[?1049h" not in text
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--interval", "0s"), "--interval 0s is not between 1s and 1h"),
        (("--interval", "2"), "is not a length of time"),
        (("--metrics", "nowhere"), "--metrics: 'nowhere' is neither HOST:PORT nor"),
        (("-w", "acme") * 11, "at most 10 times"),
        (("--token-file", "none"), "none"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_shown(
    watched: Watched, arguments: tuple[str, ...], message: str
) -> None:
    """With the exit code of wrong usage."""
    done = run_command("top", *arguments, folder=watched.folder, **watched.variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())


def test_a_server_without_a_metrics_page_is_named_with_what_to_do(watched: Watched) -> None:
    """The busiest keys and tools are shown all the same."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"127.0.0.1:{free.getsockname()[1]}"
    watched.call(_TOOL)
    done = run_command("top", "--once", "--metrics", nowhere, folder=watched.folder, **watched.variables)
    assert done.returncode == 6
    hint = "Connection refused; start the server with --metrics-listen, or name its page with --metrics"
    assert f"metrics of http://{nowhere}/metrics: {hint}\n" in done.stdout
    assert "tool, last 5 minutes" in done.stdout


def test_an_outage_of_a_source_is_shown_and_the_view_goes_on(database_url: str, tmp_path: Path) -> None:
    """When the service is back, so are its numbers, and calls are counted on."""
    variables = variables_of_server(tmp_path, database_url)
    with serving_process(tmp_path, **variables) as server:
        address = server.address
        metrics = str(server.events("serving")[0]["metrics"])
        done = run_command("workspace", "apply", str(EXAMPLE_FILE), folder=tmp_path, SKILDER_KEYS_SERVER=address)
        assert done.returncode == 0, done.stderr
        issued = run_command(
            *("keys", "issue", "-w", "acme", "--all-hats", "Bot"), folder=tmp_path, SKILDER_KEYS_SERVER=address
        )
        watched = Watched(server, tmp_path, issued.stdout.strip())
        with watched.top(columns=200) as screen:
            screen.until(has_rates)
            watched.call(_TOOL, _TOOL)
            screen.until(lambda shown: rows_of(shown, "Authorize").get("Authorize", [])[-1:] == ["2"])
            server.end()

            def is_away(shown: list[str]) -> bool:
                text = "\n".join(shown)
                return f"metrics of http://{metrics}/metrics, " in text and "keys and tools, " in text

            shown = screen.until(is_away)
            assert "refused" in "\n".join(shown)
            assert rows_of(shown, "Authorize")["Authorize"][-1] == "2", "what was known stays"
            once = run_command("top", "--once", folder=tmp_path, **watched.variables)
            assert once.returncode == 6
            assert "refused" in once.stdout
            again = variables | {"SKILDER_KEYS_LISTEN": address, "SKILDER_KEYS_METRICS_LISTEN": metrics}
            with serving_process(tmp_path, **again) as second:
                assert second.address == address
                screen.until(lambda shown: not is_away(shown) and "keys and tools, " not in "\n".join(shown))
                Watched(second, tmp_path, watched.token).call(_TOOL)
                screen.until(lambda shown: rows_of(shown, "Authorize").get("Authorize", [])[-1:] == ["3"])
                screen.type("q")
                assert (screen.wait(), screen.is_as_before()) == (0, True)
