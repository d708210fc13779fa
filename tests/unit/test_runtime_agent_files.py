"""The files of the runtime agent: each is whole at any moment, and nobody else reads or writes them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from skilder_keys.cli.runtime_agent.files import FileError, ReadyFile, Rotation, RotationFile, TokenFile
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def token() -> Token:
    """The token of a runtime key."""
    return Token.mint(KeyType.RUNTIME, new_key_id())


@pytest.fixture
def path(tmp_path: Path, token: Token) -> Path:
    """A token file, as `keys issue` and a shell make it."""
    path = tmp_path / "runtime.token"
    path.write_text(f"{token.reveal()}\n")
    return path


def test_a_token_is_replaced_as_a_whole(path: Path, token: Token) -> None:
    """By another file in its place, so that whoever reads the old one meanwhile gets all of it. Only the owner may."""
    file, after = TokenFile(path), Token.mint(KeyType.RUNTIME, new_key_id())
    assert file.read() == token
    with path.open() as reader:
        umask = os.umask(0)
        try:
            file.replace(after.reveal())
        finally:
            os.umask(umask)
        assert reader.read() == f"{token.reveal()}\n"
    assert path.read_text() == f"{after.reveal()}\n"
    assert file.read() == after
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_what_a_crash_left_behind_does_not_matter(path: Path, token: Token) -> None:
    """Half a token in the new file, readable by all, is replaced too."""
    left = path.with_name(".runtime.token.new")
    left.write_text("RTK_half")
    left.chmod(0o644)
    TokenFile(path).replace(token.reveal())
    assert (path.read_text(), path.stat().st_mode & 0o777) == (f"{token.reveal()}\n", 0o600)


def test_a_token_that_cannot_be_written_leaves_the_old_one(path: Path, token: Token) -> None:
    """Here a folder is in the way."""
    path.with_name(".runtime.token.new").mkdir()
    with pytest.raises(FileError, match=r"runtime.token could not be written: Is a directory"):
        TokenFile(path).replace(Token.mint(KeyType.RUNTIME, new_key_id()).reveal())
    assert TokenFile(path).read() == token


def test_a_link_stays_a_link(path: Path, token: Token, tmp_path: Path) -> None:
    """The file that it leads to is replaced."""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "token"
    link.symlink_to(path)
    TokenFile(link).replace(token.reveal())
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_token_keeps_its_owner(path: Path, token: Token) -> None:
    """So an agent that runs as root serves a runtime that does not."""
    os.chown(path, 1234, 2345)
    file = TokenFile(path)
    file.make_private()
    file.replace(token.reveal())
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_a_file_becomes_private(path: Path) -> None:
    """From the start, and not only with the first rotation."""
    path.chmod(0o644)
    assert TokenFile(path).make_private()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not TokenFile(path).make_private()


@pytest.mark.parametrize("content", ["", "hello", "RTK_", "é" * 75, "x" * 10_000])
def test_what_is_no_token_is_refused_and_not_shown(path: Path, content: str) -> None:
    """The message names the file and what to do."""
    path.write_text(content, "utf-8")
    with pytest.raises(FileError, match="does not contain a token: put the token of a runtime key there") as caught:
        TokenFile(path).read()
    assert not content or content not in str(caught.value)


def test_the_token_of_another_type_is_refused(path: Path) -> None:
    """The key of an agent cannot rotate itself."""
    path.write_text(Token.mint(KeyType.WORKSPACE, new_key_id()).reveal())
    with pytest.raises(FileError, match="has a token of another type"):
        TokenFile(path).read()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(FileError, match="gone: No such file or directory"):
        TokenFile(tmp_path / "gone").read()


def test_a_rotation_outlives_its_process(path: Path, token: Token) -> None:
    """Whatever it asks for; and a file that a crash cut short has none."""
    file = TokenFile(path)
    begun = Rotation.of(token, 90.5, None)
    with RotationFile.opened(file) as rotations:
        assert rotations.load() is None
        rotations.save(begun)
    whole = path.with_name("runtime.token.rotation").read_bytes()
    assert path.with_name("runtime.token.rotation").stat().st_mode & 0o777 == 0o600
    for length in range(len(whole)):
        path.with_name("runtime.token.rotation").write_bytes(whole[:length])
        with RotationFile.opened(file) as rotations:
            assert rotations.load() is None
            rotations.save(begun)
    with RotationFile.opened(file) as rotations:
        assert rotations.load() == begun
        rotations.save(Rotation.of(token, None, None))
        rotations.clear()
        assert rotations.load() is None


@pytest.mark.parametrize("content", ["7", "[]", "null", "{}", '{"key_id": "x"}', '"x"'])
def test_other_json_is_no_rotation(path: Path, content: str) -> None:
    """Nobody but the agent writes there."""
    path.with_name("runtime.token.rotation").write_text(content)
    with RotationFile.opened(TokenFile(path)) as rotations:
        assert rotations.load() is None


def test_one_agent_has_a_file(path: Path) -> None:
    """Until it ends, however that happens."""
    with (
        RotationFile.opened(TokenFile(path)),
        pytest.raises(FileError, match=r"another agent keeps .*runtime\.token fresh"),
        RotationFile.opened(TokenFile(path)),
    ):
        pass
    with RotationFile.opened(TokenFile(path)):
        pass


def test_the_readiness_file_comes_and_goes(tmp_path: Path) -> None:
    """Also one that an agent left behind that was killed."""
    path = tmp_path / "ready"
    path.touch()
    ready = ReadyFile(path)
    seen = []
    for value in (False, True, True, False):
        ready.show(ready=value)
        seen.append(path.exists())
    assert seen == [False, True, True, False]
    ReadyFile(None).show(ready=True)
    with pytest.raises(FileError, match="No such file or directory"):
        ReadyFile(tmp_path / "no folder" / "ready").show(ready=True)
