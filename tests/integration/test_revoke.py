"""RevokeKey ends a key for good, by its id or its token; GetKey shows the result."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import caller, delete_workspace, get_key, remove, user
from tests.support.ids import new_key_id
from tests.support.service import Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from skilder.keys.v1.common_pb2 import Principal

pytestmark = GRPCIO_IF_SHORT

USER: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER}
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}


async def revocations(sql: asyncpg.Connection[Any]) -> int:
    """Return the number of revocations in the audit trail."""
    return int(await sql.fetchval("SELECT count(*) FROM audit_event WHERE action = 'key.revoked'"))


@pytest.mark.parametrize("target", ["key_id", "token"])
@pytest.mark.parametrize(("actor", "by"), [("", caller("operator")), ("ada", user("ada"))])
async def test_a_revoked_key_is_denied_at_once(
    service: Service, sql: asyncpg.Connection[Any], target: str, actor: str, by: Principal
) -> None:
    """The response, GetKey and the next Authorize all show it; the rest of the key stays."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    await service.service.authorize(issued.token)
    used = await get_key(service.operator, issued.key.id)
    before = time.time()
    chosen = {target: issued.key.id if target == "key_id" else issued.token}
    revoked = await service.operator.revoke(**chosen, reason="Leaked in a ticket", actor=actor)
    assert await service.service.denial(issued.token) == "REVOKED"
    assert before - 1 < revoked.revoked_at.ToNanoseconds() / 1e9 < time.time() + 1
    used.state = key_pb2.KEY_STATE_REVOKED
    used.revoked_at.CopyFrom(revoked.revoked_at)
    used.revoked_by.CopyFrom(by)
    used.revoke_reason = "Leaked in a ticket"
    used.version += 1
    used.updated_at.CopyFrom(revoked.revoked_at)
    del used.actions[:]  # nothing can be done with it any more
    assert revoked == used
    assert await get_key(service.operator, issued.key.id) == used
    assert await revocations(sql) == 1


async def test_revoking_again_changes_nothing(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The first time, person and reason stay, whoever revokes again and how; the trail records it once."""
    issued = await service.operator.issue()
    first = await service.operator.revoke(key_id=issued.key.id, reason="first")
    later = [
        await service.operator.revoke(key_id=issued.key.id, reason="first"),
        await service.console.revoke(key_id=issued.key.id, reason="second", actor="ada"),
        await service.operator.revoke(token=issued.token, reason="third"),
    ]
    assert later == [first] * 3
    assert (first.revoked_by, first.revoke_reason) == (caller("operator"), "first")
    assert await revocations(sql) == 1


async def test_a_key_of_a_deleted_workspace_can_still_be_revoked(service: Service) -> None:
    """By the service's own callers, since nobody is a member there any more."""
    issued = await service.operator.issue()
    await delete_workspace(service.operator)
    refused = await refusal(service.console.revoke(key_id=issued.key.id, actor="ada"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_MEMBER")
    assert (await service.operator.revoke(key_id=issued.key.id)).state == key_pb2.KEY_STATE_REVOKED
    assert await service.service.denial(issued.token) == "REVOKED"


async def test_a_malformed_token_is_reported(service: Service) -> None:
    """Together with every other field at fault."""
    token = (await service.operator.issue()).token
    for spelling in ("", "hello", token[:-1], token + "0", token.lower(), f" {token}"):
        refused = await refusal(service.console.revoke(token=spelling, reason="x" * 501, actor="no one "))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert refused.fields == {
            "token": "is not a token: its length, characters, prefix or checksum are wrong",
            "reason": f"has 501 characters; at most 500 are allowed: '{'x' * 80}…'",
            "actor": "is 'no one ': character 7 is U+0020 SPACE at its end: leave it out",
        }
    assert (await service.service.authorize(token)).HasField("granted")


async def test_a_token_of_no_key_is_not_found(service: Service) -> None:
    """An unknown id, a wrong secret and a wrong prefix look the same, and the key they name stays valid."""
    issued = await service.operator.issue()
    right = Token.parse(issued.token)
    unknown = [
        Token.mint(KeyType.WORKSPACE, new_key_id()),
        Token.mint(KeyType.WORKSPACE, right.key_id),
        replace(right, type=KeyType.USER),
    ]
    for token in unknown:
        refused = await refusal(service.operator.revoke(token=token.reveal()))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
        assert (refused.message, refused.metadata) == ("No key has this token.", {})
    assert (await service.service.authorize(issued.token)).HasField("granted")


async def test_a_target_is_required(service: Service) -> None:
    """Without an id or a token the request names no key."""
    refused = await refusal(service.operator.revoke(reason="x"))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == {"target": "is required: set key_id or token"}


async def test_a_reason_has_at_most_500_printable_characters(service: Service) -> None:
    """It may be left out. A refused call revokes nothing."""
    for reason, fault in (
        ("x" * 501, f"has 501 characters; at most 500 are allowed: '{'x' * 80}…'"),
        ("  ", "is '<U+0020><U+0020>', which has no visible character: write a text"),
        (
            "a\nb",
            "is 'a<U+000A>b': character 2 is U+000A LINE FEED, which is not allowed in a single line: leave it out",
        ),
    ):
        issued = await service.operator.issue()
        refused = await refusal(service.operator.revoke(key_id=issued.key.id, reason=reason))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, {"reason": fault})
        assert (await service.service.authorize(issued.token)).HasField("granted")
    for reason in ("", "x" * 500, "\N{ROBOT FACE}" * 500):
        issued = await service.operator.issue()
        assert (await service.operator.revoke(key_id=issued.key.id, reason=reason)).revoke_reason == reason


async def test_a_key_id_has_one_spelling(service: Service) -> None:
    """Other spellings of a UUID are refused as `key_id`, by RevokeKey and GetKey; a valid unknown id is not found."""
    id_ = (await service.operator.issue()).key.id

    def other(spelling: str) -> str:
        quote = f"is '{spelling}', which " if len(spelling) <= 36 else ""  # anything longer may be a secret
        return f"{quote}is not a key id, a UUID in lower case"

    spellings = [id_.upper(), f"{{{id_}}}", f"urn:uuid:{id_}", id_.replace("-", ""), f"{id_} ", "hello", "x" * 50_000]
    for spelling, fault in [("", "is required"), *((each, other(each)) for each in spellings)]:
        for asked in (service.operator.revoke(key_id=spelling), get_key(service.operator, spelling)):
            refused = await refusal(asked)
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert refused.fields == {"key_id": fault}
    for stranger in (str(new_key_id()), "00000000-0000-0000-0000-000000000000"):
        for asked in (service.operator.revoke(key_id=stranger), get_key(service.operator, stranger)):
            refused = await refusal(asked)
            assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert (await get_key(service.operator, id_)).state == key_pb2.KEY_STATE_ACTIVE


@pytest.mark.parametrize(
    ("actor", "order", "reason"),
    [
        ("ada", {}, None),
        ("ada", USER | {"user_id": "bob"}, None),
        ("ada", RUNTIME, None),
        ("bob", {}, "ACTOR_NOT_ALLOWED"),
        ("bob", USER | {"user_id": "bob"}, None),
        ("bob", USER | {"user_id": "cyd"}, "ACTOR_NOT_ALLOWED"),
        ("bob", RUNTIME, "ACTOR_NOT_ALLOWED"),
        ("cyd", USER | {"user_id": "cyd"}, None),
        ("cyd", {}, "ACTOR_NOT_ALLOWED"),
        ("dan", {}, "ACTOR_NOT_MEMBER"),
    ],
)
async def test_who_may_see_and_revoke_which_keys(
    service: Service, sql: asyncpg.Connection[Any], actor: str, order: dict[str, Any], reason: str | None
) -> None:
    """Admins see and revoke any key, members their own user keys; `dan` is not in the workspace."""
    issued = await service.operator.issue(**order)
    if reason is None:
        seen = await get_key(service.operator, issued.key.id, actor=actor)
        assert key_pb2.KEY_ACTION_REVOKE in seen.actions
        del seen.actions[:], issued.key.actions[:]  # an operator may do more
        assert seen == issued.key
        assert (await service.operator.revoke(key_id=issued.key.id, actor=actor)).revoked_by == user(actor)
        return
    for asked in (
        get_key(service.operator, issued.key.id, actor=actor),
        service.operator.revoke(key_id=issued.key.id, actor=actor),
    ):
        refused = await refusal(asked)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert await revocations(sql) == 0
    assert (await service.service.authorize(issued.token)).HasField("granted")


async def test_a_user_who_left_the_workspace_has_no_rights_there(service: Service) -> None:
    """Not even to see or revoke their own key."""
    issued = await service.console.issue(**USER, user_id="bob", actor="bob")
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)
    for asked in (
        get_key(service.console, issued.key.id, actor="bob"),
        service.console.revoke(key_id=issued.key.id, actor="bob"),
    ):
        assert (await refusal(asked)).reason == "ACTOR_NOT_MEMBER"


async def test_whoever_holds_the_token_may_revoke_it(service: Service) -> None:
    """The token is enough, even from somebody who is not in the workspace."""
    issued = await service.operator.issue()
    revoked = await service.console.revoke(token=issued.token, actor="mallory@elsewhere.example", reason="found it")
    assert (revoked.revoked_by, revoked.revoke_reason) == (user("mallory@elsewhere.example"), "found it")
    assert await service.service.denial(issued.token) == "REVOKED"
