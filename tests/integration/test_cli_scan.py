"""`scan`: tokens in folders, in Git's history and in pipes; and their revocation."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from skilder_keys.domain.token import KeyType, Token, hint
from tests.support.command_line import CommandLine
from tests.support.process import run_command
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from tests.support.service import Service

ROOT = Path(__file__).parents[2]
GITLEAKS = ROOT / "build/bin/gitleaks"


def made() -> tuple[str, str]:
    """Return a new token, and its hint."""
    token = Token.mint(KeyType.WORKSPACE, uuid4())  # type: ignore[arg-type]  # any UUID
    return token.reveal(), hint(token.type, token.key_id)


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder."""
    who = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.com"}
    who |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | who, check=True, capture_output=True, text=True).stdout


def scanned(folder: Path, *arguments: str, **options: Any) -> tuple[int, list[dict[str, Any]], str]:
    """Run `scan --json`, and return the exit code, what was found, and standard error."""
    done = run_command("scan", "--json", *arguments, folder=folder, **options)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["found"], done.stderr


def places(found: list[dict[str, Any]]) -> set[tuple[str, int, str]]:
    """Return the file, the line and the hint of what was found."""
    return {(each["file"], each["line"], each["hint"]) for each in found}


def test_a_folder_is_scanned_but_for_what_is_ignored(tmp_path: Path) -> None:
    """The rules are those of Git: inner files decide first, and what is committed all the same is scanned."""
    tokens = {name: made() for name in ("a.py", "b/c.env", "b/keep.env", "build/x", "forced.env")}
    for name, (token, _) in tokens.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"\nKEY={token}\n")
    (tmp_path / ".gitignore").write_text("*.env\n/build/\n")
    (tmp_path / "b/.gitignore").write_text("!keep.env\n")
    (tmp_path / "link").symlink_to(tmp_path / "build")
    os.mkfifo(tmp_path / "pipe")
    seen = ["a.py", "b/keep.env"]

    def expected(*names: str) -> set[tuple[str, int, str]]:
        return {(name, 2, tokens[name][1]) for name in names}

    code, found, said = scanned(tmp_path, ".")
    assert (code, places(found)) == (1, expected(*seen))
    assert "Scanned 4 files: 2 tokens in 2 places." in said
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--force", "forced.env")
    assert places(scanned(tmp_path, ".")[1]) == expected(*seen, "forced.env")
    assert places(scanned(tmp_path, "--no-ignore", ".")[1]) == expected(*tokens)
    # In a part of the repository, the rules around it hold too; but what is named is meant.
    assert {each["line"] for each in scanned(tmp_path, "b")[1]} == {2}
    assert len(scanned(tmp_path, "b")[1]) == 1
    assert len(scanned(tmp_path, "build")[1]) == 1
    assert len(scanned(tmp_path, "b/c.env")[1]) == 1


def test_the_whole_history_is_scanned(tmp_path: Path) -> None:
    """What was deleted, what was on a branch that is gone, what a message says; each with the commit."""
    git(tmp_path, "init", "--quiet")
    first, second, third, message = (made() for _ in range(4))
    (tmp_path / "a.txt").write_text(f"one\ntwo {first[0]}")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", f"Add\n\nwith {message[0]}")
    begin = git(tmp_path, "rev-parse", "HEAD")[:12]
    git(tmp_path, "switch", "--quiet", "--create", "other")
    (tmp_path / "b.txt").write_text(second[0])
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Other")
    other = git(tmp_path, "rev-parse", "HEAD")[:12]
    git(tmp_path, "switch", "--quiet", "main")
    git(tmp_path, "branch", "--quiet", "--delete", "--force", "other")
    git(tmp_path, "rm", "--quiet", "a.txt")
    git(tmp_path, "commit", "--quiet", "--message", "Remove")
    (tmp_path / "new.txt").write_text(third[0])

    code, found, _ = scanned(tmp_path, "--history", ".")
    assert code == 1
    assert {(each["hint"], each.get("commit")) for each in found} == {
        (third[1], None),
        (first[1], begin),
        (message[1], begin),
        (second[1], other),
    }
    assert scanned(tmp_path, ".")[0] == 1
    (tmp_path / "new.txt").unlink()
    assert scanned(tmp_path, ".")[:2] == (0, [])


def test_a_repository_runs_nothing(tmp_path: Path) -> None:
    """Its configuration comes with it, so it may be somebody else's."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("x\n")
    git(tmp_path, "config", "core.fsmonitor", f"touch {tmp_path}/ran; false")
    assert scanned(tmp_path, "--history", ".")[:2] == (0, [])
    assert not (tmp_path / "ran").exists()
    git(tmp_path, "config", "--unset", "core.fsmonitor")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "--quiet", "--message", "Add")
    blob = git(tmp_path, "rev-parse", "HEAD:a.txt").strip()
    (tmp_path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    for name, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", "ssh://nowhere/a"),
        ("core.sshCommand", f"touch {tmp_path}/ran; false"),
    ):
        git(tmp_path, "config", name, value)
    assert scanned(tmp_path, "--history", ".")[0] == 70
    assert not (tmp_path / "ran").exists()


def test_a_repository_has_no_signature_checked(tmp_path: Path) -> None:
    """It could name the program that checks them."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a.txt").write_text(made()[0])
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Add")
    (tmp_path / "commit").write_text(
        git(tmp_path, "cat-file", "commit", "HEAD").replace("\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n\n", 1)
    )
    signed = git(tmp_path, "hash-object", "-t", "commit", "-w", "commit").strip()
    git(tmp_path, "update-ref", "HEAD", signed)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o700)
    git(tmp_path, "config", "log.showSignature", "true")
    git(tmp_path, "config", "gpg.program", str(program))
    code, _, _ = scanned(tmp_path, "--history", ".")
    assert not (tmp_path / "ran").exists()
    assert code == 1


def test_nobody_sees_a_token(tmp_path: Path) -> None:
    """Neither in a table nor in JSON nor in a name; and a name cannot write to the terminal."""
    token, its_hint = made()
    other, other_hint = made()
    (tmp_path / f"{token}\x1b[31m.txt").write_text(other)
    for form in ((), ("--json",)):
        done = run_command("scan", *form, ".", folder=tmp_path)
        assert its_hint in done.stdout
        assert other_hint in done.stdout
        for each in (token, other, "\x1b"):
            assert each not in done.stdout + done.stderr


def test_standard_input_is_scanned(tmp_path: Path) -> None:
    """As the end of a pipe."""
    token, its_hint = made()
    code, found, _ = scanned(tmp_path, "-", stdin=f"\n\n {token}\n")
    assert (code, places(found)) == (1, {("-", 3, its_hint)})
    assert scanned(tmp_path, "-", stdin=token[:-1])[0] == 0


def test_what_cannot_be_scanned_is_not_called_clean(tmp_path: Path) -> None:
    """A missing path is malformed; a folder without a history, or an unreadable one, is a failure."""
    done = run_command("scan", "missing", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'missing' does not exist" in done.stderr
    assert run_command("scan", "--history", "-", folder=tmp_path).returncode == 2
    done = run_command("scan", "--history", ".", folder=tmp_path)
    assert done.returncode == 70
    assert "not a git repository" in done.stderr
    (tmp_path / ".gitignore").write_text("!\n")
    done = run_command("scan", ".", folder=tmp_path)
    assert done.returncode == 70
    assert ".gitignore is not followed" in done.stderr


@ONLY_GRPCIO
async def test_keys_whose_tokens_are_found_are_revoked(service: Service, tmp_path: Path) -> None:
    """Each with the place as its reason. What is no key of the service changes nothing."""
    command = CommandLine(service, tmp_path)
    issued = await service.operator.issue()
    revoked = await service.operator.issue()
    await service.operator.revoke(key_id=revoked.key.id)
    unknown, unknown_hint = made()
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text(f"\n{issued.token}\n{issued.token}\n{revoked.token}\n{unknown}")

    asked = await command("scan", "--revoke", str(folder))
    assert (asked.returncode, asked.stdout) == (2, "")
    refused = await command.terminal("scan", "--revoke", str(folder), answer="n\n")
    assert refused.returncode == 130
    assert (await service.operator.authorize(issued.token)).HasField("granted")

    done = await command.terminal("scan", "--revoke", str(folder), answer="y\n")
    assert done.returncode == 1
    assert "the keys of these 3 tokens" in done.terminal
    assert f"{issued.key.hint}: revoked\n" in done.terminal
    assert f"{revoked.key.hint}: was revoked before" in done.terminal
    assert f"{unknown_hint}: the service has no key with this token" in done.terminal
    key = await service.operator.revoke(key_id=issued.key.id)
    assert key.revoke_reason == f"found by a scan: {folder}/a.py, line 2"


@pytest.mark.skipif(not GITLEAKS.exists(), reason="gitleaks is not here: run `make tools`, which needs Go")
def test_gitleaks_finds_tokens(tmp_path: Path) -> None:
    """With our rule: every token, nothing of another length, and lookalikes only where it takes a checksum."""
    folder = tmp_path / "code"
    folder.mkdir()
    tokens = [made()[0] for _ in range(3)]
    (folder / "a.py").write_text(f'key = "{tokens[0]}"\nother = "a\\n{tokens[1]}"\n')
    (folder / "b.env").write_text(f"SKILDER={tokens[2]}\nX=WSK_short\nY=wsk_{tokens[0][4:]}\nZ={tokens[0][:-1]}\n")
    report = tmp_path / "report.json"
    config = ROOT / "deploy/leaks/gitleaks.toml"
    command: list[str | Path] = [GITLEAKS, "dir", "--no-banner", "--config", config, "--report-path", report, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(report.read_text())
    assert {each["Secret"] for each in found if each["RuleID"] == "skilder-keys-token"} == set(tokens)
