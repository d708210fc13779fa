"""The files of the agent: the token, what it was about to do, and whether the token is good."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from skilder_keys.domain.token import KeyType, MalformedTokenError, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODE = 0o600
_LONGEST = 4096


class FileError(Exception):
    """A file is not what the agent needs. The message names it, and what to do."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A call of RotateOwnKey, with all that a retry needs to be recognised.

    Attributes:
        key_id: The key to rotate.
        request_id: A new id.
        grace: How long the old key lives on, in seconds; None for the service's default.
        lifetime: How long the new key lives, in seconds; None for as long as the old one.
    """

    key_id: str
    request_id: str
    grace: float | None
    lifetime: float | None

    @classmethod
    def of(cls, token: Token, grace: float | None, lifetime: float | None) -> Rotation:
        """Return a new rotation of a token's key."""
        return cls(str(token.key_id), str(uuid4()), grace, lifetime)


class TokenFile:
    """A file with the token of a runtime key. It always holds one whole token, whenever it is read."""

    def __init__(self, path: Path) -> None:
        """Take the file at a path; if that is a link, the file that it leads to."""
        self.path = path.resolve()
        self._new = self.path.with_name(f".{self.path.name}.new")

    def read(self) -> Token:
        """Return the token.

        Raises:
            FileError: There is no token of a runtime key.
        """
        try:
            with self.path.open("rb") as file:
                text = file.read(_LONGEST).decode("ascii", "replace").strip()
        except OSError as error:
            raise FileError(f"{self.path}: {error.strerror}") from None
        try:
            token = Token.parse(text)
        except MalformedTokenError:
            raise FileError(f"{self.path} does not contain a token: put the token of a runtime key there") from None
        if token.type is not KeyType.RUNTIME:
            raise FileError(f"{self.path} has a token of another type: put the token of a runtime key there")
        return token

    def make_private(self) -> bool:
        """Let nobody but the owner read the file; return whether others could.

        Raises:
            FileError: The file belongs to somebody else, who could not read the next token.
        """
        try:
            state = self.path.stat()
            if os.geteuid() not in (0, state.st_uid):
                raise FileError(f"{self.path} belongs to another user: run the agent as that user")
            if state.st_mode & 0o077:
                self.path.chmod(_MODE)
        except OSError as error:
            raise FileError(f"{self.path}: {error.strerror}") from None
        return bool(state.st_mode & 0o077)

    def replace(self, token: str) -> None:
        """Replace the token, at once and for good: a reader gets the old one or the new one, also after a power cut.

        Raises:
            FileError: The token could not be written; the old one is still there.
        """
        try:
            owner = self.path.stat()
            with suppress(FileNotFoundError):
                self._new.unlink()
            descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(descriptor, _MODE)
                if os.geteuid() == 0:
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write(f"{token}\n")
                file.flush()
                os.fsync(descriptor)
            self._new.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise FileError(f"{self.path} could not be written: {error.strerror}") from None


class RotationFile:
    """The rotation that was begun, on disk before its call, so that a crash cannot lose the new key.

    It has no secret. Open it with `opened`, which keeps other agents away from it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    @contextmanager
    def opened(cls, token_file: TokenFile) -> Iterator[RotationFile]:
        """Open the file beside a token file, and lock it.

        Raises:
            FileError: It cannot be opened, or another agent has it.
        """
        path = token_file.path.with_name(f"{token_file.path.name}.rotation")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileError(f"another agent keeps {token_file.path} fresh: it has locked {path}") from None
            _sync_folder(path.parent)
            yield cls(path, descriptor)
        finally:
            os.close(descriptor)

    def load(self) -> Rotation | None:
        """Return the rotation that was begun, or None.

        A file that a crash cut short holds none: the call is made only after the file was written.
        """
        try:
            values: Any = json.loads(os.pread(self._descriptor, _LONGEST, 0))
            return Rotation(**values)
        except (TypeError, ValueError):
            return None
        except OSError as error:
            raise FileError(f"{self._path}: {error.strerror}") from None

    def save(self, rotation: Rotation) -> None:
        """Write the rotation that is about to begin.

        Raises:
            FileError: It could not be written, so it must not begin.
        """
        self._write(json.dumps(asdict(rotation)).encode())

    def clear(self) -> None:
        """Write that no rotation was begun."""
        self._write(b"")

    def _write(self, content: bytes) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            if os.pwrite(self._descriptor, content, 0) != len(content):
                raise FileError(f"{self._path} could not be written: no space left")
            os.fsync(self._descriptor)
        except OSError as error:
            raise FileError(f"{self._path} could not be written: {error.strerror}") from None


class ReadyFile:
    """A file that is there as long as the token is good, for the probes of an orchestrator."""

    def __init__(self, path: Path | None) -> None:
        """Make it for a path; None for no file."""
        self._path = path
        self._there: bool | None = None

    def show(self, *, ready: bool) -> None:
        """Make the file, or remove it.

        Raises:
            FileError: That is not possible.
        """
        if self._path is None or self._there is ready:
            return
        try:
            if ready:
                self._path.touch()
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{self._path}: {error.strerror}") from None
        self._there = ready


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
