"""skilder-keys runtime-agent as a process: short lives, kills, a service that goes away, and what it writes where."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import key_pb2
from skilder_keys.domain.token import Token
from tests.support.calls import list_keys
from tests.support.lengths import by_form
from tests.support.process import COMMAND, environment, run_command, serving_process
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

pytestmark = ONLY_GRPCIO

RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}
_ROTATIONS = by_form(2, 10)
_LIFETIME = 20
"""Seconds. A third of it is left for kills and outages."""
_PATIENCE = 60


class Agents:
    """The agents that keep one token file fresh, one after another.

    Attributes:
        path: The token file.
        ready: The readiness file.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.path, self.ready, self._log = folder / "runtime.token", folder / "ready", folder / "agent.log"
        options = ("--token-file", self.path, "--server", address, "--ready-file", self.ready)
        self._command: tuple[str | Path, ...] = (COMMAND, "runtime-agent", *options)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the next agent."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=environment({}), stdout=log, stderr=log)
        return self.process

    def kill(self) -> None:
        """End the agent without a warning."""
        self.process.kill()
        self.process.wait(_PATIENCE)

    def said(self) -> str:
        """Return all that the agents have written."""
        return self._log.read_text("utf-8")


@pytest.fixture
def port() -> int:
    """A port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def agents(service: Service, tmp_path: Path, port: int) -> Iterator[Agents]:
    """The first agent, of a service that is not there yet. Its token file is there, but for a test to fill."""
    del service
    (tmp_path / "runtime.token").write_text("later")
    agents = Agents(tmp_path, f"127.0.0.1:{port}")
    agents.kill()
    yield agents
    agents.kill()


@pytest.mark.long
async def test_a_runtime_always_has_a_good_token(service: Service, agents: Agents, port: int, tmp_path: Path) -> None:
    """Its agent is killed again and again, and the service goes away and comes back."""
    issued = await service.operator.issue(**RUNTIME, lifetime=Duration(seconds=_LIFETIME))
    agents.path.write_text(issued.token)
    seen: list[Token] = []
    over = asyncio.Event()
    dice = Random(1)  # noqa: S311 - repeatable

    async def use_the_token() -> None:
        """Read the file all the time and use the token, as a runtime does, with another server of the fleet."""
        while not over.is_set():
            text = await asyncio.to_thread(agents.path.read_text)
            token = Token.parse(text.strip())
            if token not in seen:
                seen.append(token)
            instance = await service.client(token.reveal())
            assert await instance.denial("hello") == "MALFORMED", "the token is good"
            await instance.channel.close()
            await asyncio.sleep(0.1)

    async def kill_agents() -> None:
        while not over.is_set():
            agents.start()
            assert not any("RTK_" in word for word in psutil.Process(agents.process.pid).cmdline())
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), dice.uniform(1, 6))
            await asyncio.to_thread(agents.kill)

    async def stop_the_service() -> None:
        folder = tmp_path / "server"
        folder.mkdir()
        variables = {"SKILDER_KEYS_LISTEN": f"127.0.0.1:{port}", "SKILDER_KEYS_DATABASE_URL": service.database_url}
        while not over.is_set():
            with serving_process(folder, **variables) as server:
                await asyncio.to_thread(lambda: server.address)
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), dice.uniform(1, 4))
                await asyncio.to_thread(server.end)
            await asyncio.sleep(dice.uniform(0, 1.5))

    async with asyncio.timeout(_ROTATIONS * _LIFETIME + _PATIENCE), asyncio.TaskGroup() as group:
        for doing in (use_the_token, kill_agents, stop_the_service):
            group.create_task(doing())
        while len({token.key_id for token in seen}) <= _ROTATIONS:
            await asyncio.sleep(0.1)
        over.set()
    keys = list((await list_keys(service.operator)).keys)[::-1]
    assert {key.family_id for key in keys} == {issued.key.id}
    assert [key.predecessor_id for key in keys] == ["", *(key.id for key in keys[:-1])], "no key was lost"
    assert agents.path.stat().st_mode & 0o777 == 0o600
    assert not any(token.reveal() in agents.said() for token in seen)


async def test_an_agent_ends_when_it_is_asked_to(service: Service, agents: Agents, port: int, tmp_path: Path) -> None:
    """With 0, and without its readiness file, which was there as long as the token was good."""
    agents.path.write_text((await service.operator.issue(**RUNTIME)).token)
    agents.path.chmod(0o644)
    folder = tmp_path / "server"
    folder.mkdir()
    with serving_process(
        folder, SKILDER_KEYS_LISTEN=f"127.0.0.1:{port}", SKILDER_KEYS_DATABASE_URL=service.database_url
    ) as server:
        assert server.address
        agents.start()
        async with asyncio.timeout(_PATIENCE):
            while not agents.ready.exists():
                await asyncio.sleep(0.05)
        assert agents.path.stat().st_mode & 0o777 == 0o600
        second = await asyncio.to_thread(
            run_command, "runtime-agent", "--token-file", str(agents.path), folder=tmp_path
        )
        assert second.returncode == 2
        assert "another agent keeps" in second.stderr
        agents.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(agents.process.wait, _PATIENCE) == 0
    assert not agents.ready.exists()
    assert "is good until 20" in agents.said()


@pytest.mark.parametrize(
    ("content", "options", "fault"),
    [
        (None, (), "runtime.token: No such file or directory"),
        ("hello", (), "does not contain a token: put the token of a runtime key there"),
        (f"WSK_{'0' * 71}", (), "does not contain a token"),
        (f"RTK_{'0' * 71}", ("--server", "keys.example:443"), "keys.example:443 is not loopback"),
        (f"RTK_{'0' * 71}", ("--grace", "soon"), "'soon' is not a length of time"),
    ],
)
def test_mistakes_end_it_at_the_start(
    tmp_path: Path, content: str | None, options: tuple[str, ...], fault: str, transport: str
) -> None:
    """With 2 and a sentence that says what to do."""
    del transport
    if content is not None:
        (tmp_path / "runtime.token").write_text(content)
    done = run_command("runtime-agent", "--token-file", "runtime.token", *options, folder=tmp_path)
    assert done.returncode == 2
    assert fault in done.stderr
