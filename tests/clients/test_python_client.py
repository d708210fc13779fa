"""What is special to the Python client: secrets, its own token, and text that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from skilder_keys_client import AsyncClient, Client, Connection, Denied, IssuedKey, Query, ServiceError
from skilder_keys_client.v1.key_pb2 import Key
from tests.support.scripted_server import scripted

if TYPE_CHECKING:
    from pathlib import Path

DENIED = {"message": {"denied": {"reason": "DENIAL_REASON_REVOKED"}}, "repeat": True}


def test_nothing_shows_a_token() -> None:
    """Neither repr nor str, of what a program may log."""
    secret = "the-secret-itself"
    connection = Connection("127.0.0.1:1", token=secret, plaintext=True)
    with Client(connection) as client:
        shown = [connection, client, vars(client), Query(secret), IssuedKey(Key(id="k1"), secret)]
        assert secret not in repr(shown)
        assert secret not in "".join(map(str, shown))


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "é"])
def test_a_caller_token_that_is_none(token: str, tmp_path: Path) -> None:
    """It is refused before it is sent, without showing it."""
    with pytest.raises(ValueError, match="printable") as refused:
        Connection("127.0.0.1:1", token=token)
    assert not token or token not in str(refused.value)
    (tmp_path / "token").write_text(token)
    with Client(Connection("127.0.0.1:1", token_file=tmp_path / "token", plaintext=True)) as client:
        with pytest.raises(ServiceError) as failed:
            client.authorize(Query("a-token"))
        assert (failed.value.code, failed.value.is_outage) == (grpc.StatusCode.UNAUTHENTICATED, False)


async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """Also if another file takes its place, as tools that rotate it do. A file that is gone is no outage."""
    file = tmp_path / "token"
    file.write_text("first\n")
    async with (
        scripted([DENIED]) as script,
        AsyncClient(Connection(script.address, token_file=file, plaintext=True)) as client,
    ):
        await client.authorize(Query("a-token"))
        (tmp_path / "new").write_text("other")
        (tmp_path / "new").replace(file)
        await client.authorize(Query("a-token"))
        file.unlink()
        with pytest.raises(ServiceError, match="token"):
            await client.authorize(Query("a-token"))
    assert [each.headers["authorization"] for each in script.seen] == ["Bearer first", "Bearer other"]


@pytest.mark.parametrize("token", ["\ud800", "x" * 70_000])
async def test_what_fits_in_no_request_is_malformed(token: str) -> None:
    """Without a call. A part of a batch that is none leaves the others alone."""
    async with scripted([DENIED]) as script, AsyncClient(Connection(script.address, plaintext=True)) as client:
        denied = await client.authorize(Query(token, tool_id="a.x"))
        assert isinstance(denied, Denied)
        assert denied.reason == "MALFORMED"
        assert await client.batch_authorize([Query(token)] * 2) == [denied] * 2
        assert script.seen == []
        with pytest.raises(ServiceError) as failed:
            await client.authorize(Query("a-token", tool_id="\ud800"))
    assert (failed.value.code, script.seen) == (grpc.StatusCode.INVALID_ARGUMENT, [])


async def test_a_denial_is_false() -> None:
    """A program that only asks whether there is a decision lets nobody in."""
    async with scripted([DENIED]) as script, AsyncClient(Connection(script.address, plaintext=True)) as client:
        assert not await client.authorize(Query("a-token", tool_id="a.x"))


@pytest.mark.parametrize(
    "fields",
    [
        {"token": "a", "token_file": "b"},
        {"certificate": b"a"},
        {"plaintext": True, "root_certificates": b"a"},
    ],
)
def test_a_connection_that_contradicts_itself(fields: dict[str, object]) -> None:
    """It is refused when it is made."""
    with pytest.raises(ValueError, match=r"give|plaintext"):
        Connection("127.0.0.1:1", **fields)  # type: ignore[arg-type]
