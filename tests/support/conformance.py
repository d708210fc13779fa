"""The conformance cases of clients/conformance, and how a client's program makes their calls."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from skilder_keys.supervisor.address import reserve_port
from tests.support.scripted_server import Script, scripted

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parents[2] / "clients" / "conformance"
PATIENCE = 30
"""Seconds in which a program must have made a call."""
CALLER_TOKEN = "the-token-of-the-caller"


class Case(BaseModel):
    """A call of a client, the answers of the server and the result, as clients/conformance/README.md describes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    method: str
    args: dict[str, Any]
    timeout_ms: int = Field(default=5_000, gt=0)
    answers: list[dict[str, Any]]
    listening: bool = True
    expect: dict[str, Any]
    attempts: int | None = None
    requests: list[dict[str, Any]] | None = None


def cases() -> list[Case]:
    """Return all cases of all files."""
    files = sorted((FOLDER / "cases").glob("*.yaml"))
    return [Case(**each) for file in files for each in yaml.safe_load(file.read_text("utf-8"))]


@dataclass(frozen=True, slots=True)
class Driver:
    """A running program that makes calls: a request in JSON on a line of its input, the result on one of its output."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, command: Sequence[str]) -> Driver:
        """Start a program."""
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=64 << 20))

    async def call(self, case: Case, target: str) -> dict[str, Any]:
        """Make the call of a case, by a client of its own, and return its result."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"id": case.name, "target": target, "caller_token": CALLER_TOKEN, "timeout_ms": case.timeout_ms}
        line = json.dumps(request | {"method": case.method, "args": case.args}) + "\n"
        self.process.stdin.write(line.encode())
        async with asyncio.timeout(PATIENCE):
            printed = await self.process.stdout.readline()
        assert printed, f"the program ended with {await self.process.wait()}"
        result: dict[str, Any] = json.loads(printed)
        assert result.pop("id") == case.name
        return result

    async def end(self) -> None:
        """Close its input, upon which it must end by itself, without an error."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            assert await self.process.wait() == 0


async def run(driver: Driver, case: Case) -> tuple[dict[str, Any], Script]:
    """Make the call of a case, and return its result and what the server saw."""
    if not case.listening:
        with reserve_port("127.0.0.1:0") as address:
            return await driver.call(case, address), Script([])
    async with scripted(case.answers) as script:
        return await driver.call(case, script.address), script


def differences(expected: Any, found: Any, place: str = "") -> list[str]:
    """Return where a result is not what was expected. Fields of it that are not expected are not looked at."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            each for name, value in expected.items() for each in differences(value, found.get(name), f"{place}.{name}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [each for index, (a, b) in pairs for each in differences(a, b, f"{place}[{index}]")]
    return [] if expected == found else [f"{place or 'result'} is {found!r}, not {expected!r}"]
