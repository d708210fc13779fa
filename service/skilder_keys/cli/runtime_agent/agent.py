"""What the agent does, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import grpc

from skilder_keys.cli.runtime_agent.files import FileError, Rotation
from skilder_keys.cli.runtime_agent.schedule import Life, pause
from skilder_keys.cli.runtime_agent.service import CallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from skilder_keys.cli.runtime_agent.files import ReadyFile, RotationFile, TokenFile
    from skilder_keys.cli.runtime_agent.service import Service
    from skilder_keys.domain.token import Token


class Stop(Protocol):
    """Says when to stop, as threading.Event does."""

    def is_set(self) -> bool:
        """Return whether to stop."""

    def wait(self, timeout: float) -> object:
        """Wait until it is time to stop, but not longer than `timeout` seconds."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a rotation asks for, in seconds; None leaves it to the service.

    Attributes:
        grace: How long the old key lives on.
        lifetime: How long the new key lives.
    """

    grace: float | None = None
    lifetime: float | None = None


class Agent:
    """Keeps a token file fresh: rotates the key whose token is in it, and replaces the token.

    A rotation is on disk before its call. If a crash or a lost response keeps the new token from getting there too,
    the next step calls again with the same request_id. Then the service returns the same new key with a new token, as
    nobody has used it. Meanwhile the old token is good for its grace.
    """

    def __init__(
        self,
        service: Service,
        token_file: TokenFile,
        rotation_file: RotationFile,
        ready_file: ReadyFile,
        wanted: Wanted,
        say: Callable[[str], object],
        dice: Random,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """Make the agent.

        Args:
            service: The service.
            token_file: The file to keep fresh.
            rotation_file: Where it notes what it is about to do.
            ready_file: Where it shows that the token is good.
            wanted: What its rotations ask for.
            say: Reports a sentence. No sentence has a token.
            dice: Chance.
            clock: Returns seconds; it goes on while the machine sleeps, and nobody sets it.
            wall: Returns the seconds since 1970. Used only for a key whose begin the agent has not seen.
        """
        self._service = service
        self._token_file = token_file
        self._rotation_file = rotation_file
        self._ready_file = ready_file
        self._wanted = wanted
        self._say = say
        self._dice = dice
        self._clock = clock
        self._wall = wall
        self._key_id = ""  # of the token that the rest is about
        self._life: Life | None = None
        self._expires_at: datetime | None = None
        self._good = False
        self._began: tuple[str, float] = ("", 0.0)  # the rotation that this process began, and when
        self._failures = 0

    def run(self, stop: Stop) -> None:
        """Take steps until it is time to stop. Then remove the readiness file."""
        while not stop.is_set():
            stop.wait(self.step())
        self._show(ready=False)

    def step(self) -> float:
        """Do what is due, and return how many seconds to wait for the next step."""
        try:
            wait = self._step()
        except FileError as error:
            wait = self._failed(str(error))
        except CallError as error:
            wait = self._failed(self._explained(error), error.retry_after)
        self._show(ready=self._good and self._life is not None and self._clock() < self._life.end)
        return wait

    def _step(self) -> float:
        try:
            token = self._token_file.read()
        except FileError:
            self._good = False
            raise
        if str(token.key_id) != self._key_id:
            self._key_id, self._life, self._expires_at, self._good = str(token.key_id), None, None, False
        rotation = self._rotation_file.load()
        if rotation is not None and rotation.key_id != self._key_id:
            self._rotation_file.clear()  # it is done: the token in the file is another one
            rotation = None
        life = self._look(token) if rotation is None or self._life is None else self._life
        if rotation is None:
            if self._clock() < life.due:
                return min(life.look, life.due - self._clock())
            rotation = Rotation.of(token, self._wanted.grace, self._wanted.lifetime)
            self._rotation_file.save(rotation)
            self._began = rotation.request_id, self._clock()
        return self._rotate(token, rotation)

    def _look(self, token: Token) -> Life:
        """Ask the service whether the token is good, and how long."""
        expires_at = self._service.expires_at(token)
        life, known = self._life, self._expires_at
        if life is None or (known is None) != (expires_at is None):
            life = Life.found(token.key_id, expires_at, self._clock(), self._wall(), self._dice)
        elif known is not None and expires_at is not None:
            life = life.moved((expires_at - known) / timedelta(seconds=1))
        if not self._good:
            self._say(f"The token in {self._token_file.path} is good {_until(expires_at)}.")
        self._life, self._expires_at, self._good, self._failures = life, expires_at, True, 0
        return life

    def _rotate(self, token: Token, rotation: Rotation) -> float:
        """Rotate the key, or do it again, and replace the token."""
        response = self._service.rotate(token, rotation)
        self._token_file.replace(response.token)
        key = response.key
        expires_at = key.expires_at.ToDatetime(UTC) if key.HasField("expires_at") else None
        request_id, began = self._began
        if request_id == rotation.request_id and expires_at is not None:
            length = (expires_at - key.created_at.ToDatetime(UTC)) / timedelta(seconds=1)
            self._life = Life.new(length, began, self._dice)
        else:  # another process began it, and nobody knows when
            self._life = Life.found(UUID(key.id), expires_at, self._clock(), self._wall(), self._dice)
        self._key_id, self._expires_at, self._good, self._failures = key.id, expires_at, True, 0
        self._rotation_file.clear()
        self._say(f"Rotated key {rotation.key_id}: the token of key {key.id} is good {_until(expires_at)}.")
        return min(self._life.look, max(self._life.due - self._clock(), 0.0))

    def _failed(self, message: str, retry_after: float = 0.0) -> float:
        self._failures += 1
        left = 0.0 if self._life is None else self._life.end - self._clock()
        wait = max(pause(self._failures, left, self._dice), retry_after)
        self._say(f"{message}. Next try in {wait:.1f} s.")
        return wait

    def _explained(self, error: CallError) -> str:
        """Return what an error means, and forget what it says is over."""
        path = self._token_file.path
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            self._good = False
            return (
                f"The service does not accept the token in {path} any more: its key has expired, or was suspended or "
                "revoked. Put another token there"
            )
        if error.code is grpc.StatusCode.INVALID_ARGUMENT:
            self._rotation_file.clear()  # other options may be right
        if error.reason == "REQUEST_REVOKED":
            self._rotation_file.clear()
            return "The new key was revoked before its token arrived: rotating again"
        if error.reason == "REQUEST_USED":
            self._rotation_file.clear()
            return f"Somebody else has used the token of the new key, which never arrived here: {error}"
        if error.reason == "KEY_ALREADY_ROTATED":
            return (
                f"Somebody else has rotated the key in {path}. If that was no agent of yours, the token was stolen: "
                f"revoke the key with its family. {error}"
            )
        return str(error)

    def _show(self, *, ready: bool) -> None:
        try:
            self._ready_file.show(ready=ready)
        except FileError as error:
            self._say(str(error))


def _until(expires_at: datetime | None) -> str:
    return "until it is revoked" if expires_at is None else f"until {expires_at:%Y-%m-%d %H:%M:%SZ}"
