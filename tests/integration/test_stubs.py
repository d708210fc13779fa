"""Clients in other languages: stubs generated from protos/, compiled, and used in calls."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.service import TOKENS
from tests.support.stubs import LANGUAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

# What each program prints: the same calls, with the names that its language has for the values of enums.
_PRINTS = """\
applied 1 6
issued {type} 75
listed 1 {active}
granted tool_set 2
granted tool post
denied {not_allowed}
refused {refused}
read 2
followed 2
followed 1
unknown 77 {unknown}
"""
_FULL_NAMES = {
    "type": "KEY_TYPE_WORKSPACE",
    "active": "KEY_STATE_ACTIVE",
    "not_allowed": "DENIAL_REASON_TOOL_NOT_ALLOWED",
    "refused": "ERROR_REASON_INVALID_REQUEST",
}
PRINTS = {
    "go": _PRINTS.format(**_FULL_NAMES, unknown="77"),
    "java": _PRINTS.format(**_FULL_NAMES, unknown="UNRECOGNIZED"),
    "typescript": _PRINTS.format(
        type="WORKSPACE",
        active="ACTIVE",
        not_allowed="TOOL_NOT_ALLOWED",
        refused="INVALID_REQUEST",
        unknown="",
    ),
}
# No language hides a token where a message is printed as it is; Java has another way to print it.
REDACTS = {"printed": False, "redacted": True}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_program_calls_the_service(empty_service: Service, tmp_path: Path, language: str) -> None:
    """With both transports. It sees the same as any other client, in the types of its own language."""
    made = LANGUAGES[language]
    folder = await asyncio.to_thread(made.built)
    (tmp_path / "operator.token").write_text(TOKENS["operator"])
    command = [*made.run(folder, "calls"), empty_service.address, str(tmp_path / "operator.token")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    begin = len(PRINTS[language])
    assert done.stdout[:begin] == PRINTS[language]
    printed = dict(line.split(maxsplit=1) for line in done.stdout[begin:].splitlines())
    assert printed.keys() == ({"printed", "redacted"} if language == "java" else {"printed"})
    for how, text in printed.items():
        assert "Slack Support Bot" in text
        assert (re.search(r"WSK_\w{71}", text) is None) is REDACTS[how], how


def test_what_is_fetched_is_named_without_addresses() -> None:
    """The files that pin it work with every registry."""
    for name in ("typescript/package.json", "typescript/package-lock.json", "java/pom.xml", "java/jars.sha256"):
        assert "://" not in (ROOT / "tests" / "support" / name).read_text("utf-8")
