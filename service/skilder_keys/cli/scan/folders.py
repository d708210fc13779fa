"""The files of a folder, without those that .gitignore files name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pathspec import GitIgnoreSpec

from skilder_keys.cli.exits import reason
from skilder_keys.cli.scan.git import GitError, tracked_but_ignored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_IGNORE_FILE = ".gitignore"
_GIT = ".git"


@dataclass(frozen=True, slots=True)
class _Rules:
    """The .gitignore files that hold in a folder, with the folders they are in, the outermost first."""

    files: tuple[tuple[Path, GitIgnoreSpec], ...] = ()

    def of(self, folder: Path, problem: Callable[[str], None]) -> Self:
        """Return the rules that hold in a folder below."""
        file = folder / _IGNORE_FILE
        try:
            lines = os.fsdecode(file.read_bytes()).splitlines()
            return type(self)((*self.files, (folder.absolute(), GitIgnoreSpec.from_lines(lines))))
        except FileNotFoundError:
            return self
        except (OSError, ValueError) as error:
            problem(f"{file} is not followed: {reason(error)}")
            return self

    def ignore(self, path: Path, *, is_folder: bool) -> bool:
        """Return whether a file or folder is ignored. The innermost file that says anything about it decides."""
        for folder, spec in reversed(self.files):
            found = spec.check_file(path.absolute().relative_to(folder).as_posix() + "/" * is_folder).include
            if found is not None:
                return found
        return False


def files_of(folder: Path, problem: Callable[[str], None], *, ignored_too: bool) -> Iterator[Path]:
    """Yield the files of a folder and of all folders in it, but nothing of Git's own and no symbolic links.

    Ignore what .gitignore files name, also those of the folders around it up to the repository's own, unless Git
    tracks it all the same.

    Args:
        folder: The folder.
        problem: Called with a sentence for each part of the folder that could not be read.
        ignored_too: Whether to ignore nothing.
    """
    rules = _Rules()
    outer = [] if ignored_too else _repository_around(folder)
    for each in outer:
        rules = rules.of(each, problem)
    if rules.ignore(folder, is_folder=True):
        rules = _Rules()  # somebody asks for it by name
    if outer:
        yield from _tracked(folder, problem)
    waiting = [(folder, rules)]
    while waiting:
        current, rules = waiting.pop()
        entries = _entries(current, problem)
        if not ignored_too:
            rules = rules.of(current, problem)
            if any(each.name == _GIT for each in entries):
                yield from _tracked(current, problem)
        kept = [each for each in entries if not rules.ignore(current / each.name, is_folder=_is_folder(each))]
        waiting += [(current / each.name, rules) for each in kept if _is_folder(each) and each.name != _GIT]
        yield from (current / each.name for each in kept if each.is_file(follow_symlinks=False) and each.name != _GIT)


def _entries(folder: Path, problem: Callable[[str], None]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        problem(f"{folder}: {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _repository_around(folder: Path) -> list[Path]:
    """Return the folders around a folder that are in the same repository, the outermost first; none without one."""
    if (folder / _GIT).exists():
        return []
    around: list[Path] = []
    for each in folder.absolute().parents:
        around.insert(0, each)
        if (each / _GIT).exists():
            return around
    return []


def _tracked(folder: Path, problem: Callable[[str], None]) -> list[Path]:
    try:
        return [each for each in tracked_but_ignored(folder) if each.is_file() and not each.is_symlink()]
    except GitError as error:
        problem(f"{folder}: files that .gitignore names are not scanned, although Git may track them: {error}")
        return []
