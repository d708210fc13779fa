"""What Git knows about a folder: files that it tracks, and every object of its history."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_CHUNK = 2**20
# The configuration of a repository from elsewhere can name programs: none of them may run.
_OFF = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "log.showSignature=false")
_GIT = ("git", *(word for setting in _OFF for word in ("-c", setting)), "--no-pager")
_EVERYTHING = ("--all", "--reflog")
# Nor may one run to fetch an object that a partial clone lacks: nothing is fetched.
_VARIABLES = {"LC_ALL": "C", "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}


class GitError(Exception):
    """Git is not there, or failed."""


@dataclass(frozen=True, slots=True)
class GitObject:
    """A version of a file, the message of a commit, or a tag.

    Attributes:
        id: The object's id.
        kind: `blob`, `commit` or `tag`.
        path: A path at which the file was; empty for a commit.
        chunks: The content, in parts. Read all of it before the next object.
    """

    id: str
    kind: str
    path: str
    chunks: Iterator[bytes]


def tracked_but_ignored(folder: Path) -> list[Path]:
    """Return the files in a folder of a repository that are committed or staged, though .gitignore names them.

    Raises:
        GitError: Git failed.
    """
    listed = _output(folder, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard")
    return [folder / os.fsdecode(name) for name in listed.split(b"\0") if name]


def objects(folder: Path) -> Iterator[GitObject]:
    """Yield each object of the whole history once: of all branches, tags and stashes, and of what they were before.

    Raises:
        GitError: Git failed.
    """
    form = "--batch=%(objectname) %(objecttype) %(objectsize) %(rest)"
    with (
        _running(folder, "rev-list", "--objects", *_EVERYTHING) as listing,
        _running(folder, "cat-file", "--buffer", form, stdin=listing) as contents,
    ):
        while header := contents.readline():
            oid, kind, *rest = os.fsdecode(header.rstrip(b"\n")).split(" ", 3)
            if kind == "missing":
                raise GitError(f"object {oid} is missing")
            chunks = _limited(contents, int(rest[0]))
            if kind != "tree":
                yield GitObject(oid, kind, rest[1] if len(rest) > 1 else "", chunks)
            for _ in chunks:
                pass
            contents.read(1)


def commit_of(folder: Path, blob: str) -> str:
    """Return the id of the first commit that had a blob, or the blob's own id if it is only staged or stashed.

    Raises:
        GitError: Git failed.
    """
    found = _output(folder, "log", *_EVERYTHING, "-m", "--format=%H", f"--find-object={blob}").split()
    return found[-1].decode() if found else blob


def _output(folder: Path, *arguments: str) -> bytes:
    with _running(folder, *arguments) as output:
        return output.read()


@contextmanager
def _running(folder: Path, *arguments: str, stdin: IO[bytes] | None = None) -> Iterator[IO[bytes]]:
    """Run git, and yield its output. Raise GitError if it fails after its output was read to the end."""
    # In a hook of Git, its variables lead to the repository of the hook.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [*_GIT, "-C", str(folder), *arguments]
    try:
        process = subprocess.Popen(  # noqa: S603 - the arguments are ours, and the folder follows its option
            command,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables | _VARIABLES,
        )
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    with process:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - for the type checker
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        errors = process.stderr.read()
    if process.returncode:
        raise GitError(" ".join(errors.decode(errors="replace").split()) or f"git {arguments[0]} failed")


def _limited(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        chunk = stream.read(min(size, _CHUNK))
        if not chunk:
            raise GitError("git ended in the middle of an object")
        size -= len(chunk)
        yield chunk
