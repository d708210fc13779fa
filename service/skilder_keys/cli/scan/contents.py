"""What there is to scan at the paths that a person gives."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skilder_keys.cli.scan.finder import tokens_in
from skilder_keys.cli.scan.folders import files_of
from skilder_keys.cli.scan.git import GitError, commit_of, objects
from skilder_keys.domain.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skilder_keys.cli.scan.git import GitObject

STANDARD_INPUT = "-"
_CHUNK = 2**20
_SHOWN_ID = 12


@dataclass(frozen=True, slots=True)
class Found:
    """A token, and where it is.

    Attributes:
        token: The token. Print its hint and its id only.
        file: The file, or `-`; empty in the message of a commit.
        line: The line, from 1 on; 0 in the name of the file.
        commit: The first commit that has it there; empty outside of a history.
    """

    token: Token
    file: str
    line: int
    commit: str = ""


@dataclass
class Scan:
    """A scan of files, folders and histories.

    Attributes:
        problem: Called with a sentence for each thing that could not be scanned.
        ignored_too: Whether to scan what .gitignore files name.
        files: How many files were scanned so far.
        versions: How many versions of files, and messages, of histories were scanned so far.
    """

    problem: Callable[[str], None]
    ignored_too: bool
    files: int = 0
    versions: int = 0

    def path(self, given: str) -> Iterator[Found]:
        """Yield the tokens in a file, in a folder or, for `-`, in standard input."""
        if given == STANDARD_INPUT:
            yield from self._file(given, 0)
            return
        path = Path(given)
        files = files_of(path, self.problem, ignored_too=self.ignored_too) if path.is_dir() else [path]
        for file in files:
            yield from self._name(str(file))
            yield from self._file(str(file), str(file))

    def history(self, given: str) -> Iterator[Found]:
        """Yield the tokens in the history of the Git repository of a folder."""
        folder = Path(given)
        try:
            for each in objects(folder):
                self.versions += 1
                yield from _in_object(folder, each)
        except GitError as error:
            self.problem(f"the history of {given}: {error}")

    def _file(self, name: str, opened: str | int) -> Iterator[Found]:
        self.files += 1
        for line, token in tokens_in(self._chunks(name, opened)):
            yield Found(token, name, line)

    def _chunks(self, name: str, opened: str | int) -> Iterator[bytes]:
        try:
            with io.FileIO(opened, closefd=opened != 0) as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
        except OSError as error:
            self.problem(f"{name}: {error.strerror}")

    def _name(self, name: str) -> Iterator[Found]:
        for _, token in tokens_in([os.fsencode(name)]):
            yield Found(token, name, 0)


def _in_object(folder: Path, given: GitObject) -> Iterator[Found]:
    commit = ""
    for line, token in tokens_in(given.chunks):
        commit = commit or (commit_of(folder, given.id) if given.kind == "blob" else given.id)
        yield Found(token, given.path, line, commit[:_SHOWN_ID])
