"""The runtime agent with a clock of its own, against a service that may go away."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import grpc

from skilder_keys.cli.runtime_agent.agent import Agent, Wanted
from skilder_keys.cli.runtime_agent.files import ReadyFile, RotationFile, TokenFile
from skilder_keys.cli.runtime_agent.service import Service
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from skilder_keys.domain.token import Token


class Crash(BaseException):
    """The end of the agent's process, at some point of its code."""


@dataclass
class Place:
    """Where an agent runs: its files and its clocks, which stay when it crashes, and the address of the service.

    Attributes:
        address: Where the service is.
        folder: Holds the files.
        clock: The clock that nobody sets.
        wall: The wall clock.
        said: What the agents have said.
    """

    address: str
    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    wall: FakeClock = field(default_factory=FakeClock)
    said: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def path(self) -> Path:
        """The token file."""
        return self.folder / "runtime.token"

    def is_ready(self) -> bool:
        """Return whether the readiness file is there."""
        return (self.folder / "ready").exists()

    def put(self, token: str) -> None:
        """Put a token into the file, as the platform does."""
        self.path.write_text(f"{token}\n")

    def token(self) -> Token:
        """Return the token in the file."""
        return TokenFile(self.path).read()

    def pass_time(self, seconds: float) -> None:
        """Let both clocks go on."""
        self.clock.now += seconds
        self.wall.now += seconds


class RunningAgent:
    """An agent at a place. It holds its lock until `end`."""

    def __init__(self, place: Place, wanted: Wanted | None = None) -> None:
        self.place = place
        self.token_file = TokenFile(place.path)
        self._stack = ExitStack()
        self.rotation_file = self._stack.enter_context(RotationFile.opened(self.token_file))
        self.service = Service(lambda: grpc.insecure_channel(place.address))
        place.seed += 1
        self._agent = Agent(
            self.service,
            self.token_file,
            self.rotation_file,
            ReadyFile(place.folder / "ready"),
            wanted or Wanted(),
            place.said.append,
            Random(place.seed),  # noqa: S311 - repeatable
            place.clock,
            place.wall,
        )

    def step(self) -> float:
        """Do what is due, and return how long to wait."""
        return self._agent.step()

    def until_rotated(self, steps: int = 500) -> None:
        """Let time pass until another token is in the file."""
        before = self.place.token()
        for _ in range(steps):
            self.place.pass_time(self.step())
            if self.place.token() != before:
                return
        raise AssertionError("\n".join(["not rotated:", *self.place.said[-5:]]))

    def end(self) -> None:
        """End, orderly or by a crash: nothing is left but the files."""
        self._stack.close()


def crash_before(target: Any, name: str) -> None:
    """Make an object crash instead of doing something."""

    def crash(*_: object) -> None:
        raise Crash

    setattr(target, name, crash)


def crash_after(target: Any, name: str) -> None:
    """Make an object crash as soon as it has done something."""
    done = getattr(target, name)

    def crash(*arguments: object) -> None:
        done(*arguments)
        raise Crash

    setattr(target, name, crash)
