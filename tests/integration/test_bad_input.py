"""Malformed requests, and requests with invalid fields, are refused with the field named."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2, key_pb2, workspace_pb2
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import METHODS, OF_EACH_KIND, call, get_workspace, request_type
from tests.support.fail_open import REFUSED_FIELDS
from tests.support.ids import new_key_id
from tests.support.lengths import by_form
from tests.support.service import Client, Refusal, Service, refusal, serving
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT, with_envoy_if_short
from tests.support.valid import is_map, valid_requests, with_each_text
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg
    from google.protobuf.message import Message

BAD_UTF8 = b"\xff\xfe"


def tagged(number: int, data: bytes) -> bytes:
    """Return a length-delimited protobuf field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


def field_number(message: type[Message], name: str) -> int:
    """Return the number of a field."""
    return int(message.DESCRIPTOR.fields_by_name[name].number)


async def refused_call(client: Client, method: str, request: Message | bytes) -> Refusal:
    """Make a call that must be refused as an invalid argument."""
    refused = await refusal(call(client, method, request))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT, (method, refused)
    return refused


@pytest.mark.parametrize("method", METHODS)
@with_envoy_if_short(method=OF_EACH_KIND)
@TOGETHER_IF_SHORT
async def test_invalid_utf8_is_reported_with_its_field(service: Service, method: str) -> None:
    """For every text of every request, also nested ones. A bare INTERNAL would help nobody."""
    fields: Any = request_type(method).DESCRIPTOR.fields
    for field in fields:
        if field.type == field.TYPE_STRING:
            at = f"{field.name}[1]" if field.is_repeated else field.name
            body = tagged(field.number, b"fine") + tagged(field.number, BAD_UTF8)
            refused = await refused_call(await service.caller_of(method), method, body)
            assert refused.fields == {at: "is not valid UTF-8: byte 1 is 0xFF"}
            assert refused.reason == "INVALID_REQUEST"


async def test_invalid_utf8_deep_in_a_workspace_is_reported_with_its_field(service: Service) -> None:
    """With the whole path, also after valid elements."""
    good = tagged(field_number(workspace_pb2.Hat, "id"), b"everyone")
    bad = good + tagged(field_number(workspace_pb2.Hat, "skill_ids"), b"search")
    bad += tagged(field_number(workspace_pb2.Hat, "skill_ids"), BAD_UTF8)
    hats = field_number(workspace_pb2.Workspace, "hats")
    body = tagged(1, tagged(hats, good) + tagged(hats, bad))
    refused = await refused_call(service.operator, "CatalogService/ApplyWorkspace", body)
    assert refused.fields == {"workspace.hats[1].skill_ids[1]": "of 'everyone' is not valid UTF-8: byte 1 is 0xFF"}


@pytest.mark.parametrize("method", METHODS)
@with_envoy_if_short(method=OF_EACH_KIND)
@TOGETHER_IF_SHORT
async def test_bytes_that_are_no_message_are_malformed(service: Service, method: str) -> None:
    """Truncated, garbage, a wrong wire type, or groups without end."""
    whole, client = valid_requests()[method][0].SerializeToString(), await service.caller_of(method)
    for body in (whole[:-1], b"\xff" * 20, b"\x00", b"\x0f", b"\x0b" * 200, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b"):
        refused = await refused_call(client, method, body)
        assert (refused.reason, refused.fields) == ("MALFORMED_MESSAGE", {}), body


async def test_an_empty_request_is_a_request(service: Service) -> None:
    """Its required fields are reported; a method that requires nothing succeeds."""
    expected = {
        "KeyService/IssueKey": ["type"],
        "KeyService/RevokeKey": ["target"],
        "KeyService/RotateKey": ["key_id"],
        "KeyService/UpdateKey": ["key.id", "update_mask"],
        "KeyService/SuspendKey": ["key_id"],
        "KeyService/ResumeKey": ["key_id"],
        "KeyService/ListKeys": ["workspace_id"],
        "KeyService/GetKey": ["key_id"],
        "KeyService/ExplainKey": ["key_id"],
        "KeyService/ListToolUsers": ["tool"],
        "ActivityService/ListActivity": ["workspace_id"],
        "ActivityService/GetUsage": ["step"],
        "CatalogService/ApplyWorkspace": ["workspace.id", "workspace.name"],
        "CatalogService/UpdateWorkspace": ["workspace_id"],
        "CatalogService/GetWorkspace": ["workspace_id"],
        "CatalogService/DeleteWorkspace": ["workspace_id"],
    }
    for method, fields in expected.items():
        assert list((await refused_call(service.operator, method, b"")).fields) == fields, method
    assert await call(service.operator, "CatalogService/ListWorkspaces", b"") != b""
    assert await call(service.operator, "AuthorizationService/BatchAuthorize", b"") == b""
    response = await call(service.operator, "AuthorizationService/Authorize", b"")
    denied = authorization_service_pb2.AuthorizeResponse.FromString(response).denied
    assert denied.reason == authorization_service_pb2.DENIAL_REASON_MALFORMED


TEXTS = {
    "NUL": "a\x00b",
    "control": "a\x1bb",
    "bidirectional override": "a\N{RIGHT-TO-LEFT OVERRIDE}b",
    "bidirectional isolate": "a\N{LEFT-TO-RIGHT ISOLATE}b",
    "nothing to see": "\N{ZERO WIDTH SPACE}\N{HANGUL FILLER}",
    "over-long": "x" * 20_000,
    "over-long and wide": "\N{ROBOT FACE}" * 15_000,
}


SHORT_TEXTS = ("NUL", "bidirectional isolate", "nothing to see", "over-long and wide")
"""Those of the short form: one of each kind."""


@pytest.mark.parametrize("name", by_form(SHORT_TEXTS, tuple(TEXTS)))
@GRPCIO_IF_SHORT
@TOGETHER_IF_SHORT
async def test_a_bad_text_is_reported_with_its_field(service: Service, name: str) -> None:
    """For every text of every request, with its whole path. A bad text as a token is just no token."""
    value = TEXTS[name]
    for method, requests in valid_requests().items():
        client = await service.caller_of(method)
        for request in requests:
            for path, changed in with_each_text(request, value):
                if (method, path) in {
                    ("AuthorizationService/Authorize", "token"),
                    ("AuthorizationService/ReadToolSet", "request.token"),
                }:
                    # A denial has the same number in both responses.
                    response = await call(service.operator, method, changed)
                    denied = authorization_service_pb2.AuthorizeResponse.FromString(response).denied
                    assert denied.reason == authorization_service_pb2.DENIAL_REASON_MALFORMED
                elif (method, path) == ("AuthorizationService/BatchAuthorize", "requests[1].token"):
                    response = await call(service.operator, method, changed)
                    for each in authorization_service_pb2.BatchAuthorizeResponse.FromString(response).responses:
                        assert each.denied.reason == authorization_service_pb2.DENIAL_REASON_MALFORMED
                else:
                    refused = await refused_call(client, method, changed)
                    assert path in refused.fields, (method, path, refused)


def test_every_text_of_the_contract_is_tried() -> None:
    """The requests that the tests of bad texts start from contain every text field of the contract."""
    for method, requests in valid_requests().items():
        tried = {re.sub(r"\[\d+\]", "", path) for request in requests for path, _ in with_each_text(request, "")}
        # Those of `REFUSED_FIELDS` are never valid.
        every = set(texts(METHODS[method].input_type))
        assert tried == every - set(REFUSED_FIELDS.get(method, {})), method


def texts(descriptor: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every text field of a message."""
    for field in descriptor.fields:
        if field.type == field.TYPE_STRING:
            yield path + field.name
        elif field.type == field.TYPE_MESSAGE and not is_map(field):
            yield from texts(field.message_type, f"{path}{field.name}.")


WIDE = "\N{ROBOT FACE}" * 256


def trailer_bytes(error: grpc.aio.AioRpcError) -> int:
    """Return the approximate size of a failed call's status on the wire: percent-encoded, and in base64."""
    message = quote(error.details() or "", safe="".join(map(chr, range(0x20, 0x7F))).replace("%", ""))
    details = sum(len(value) * 4 / 3 for name, value in error.trailing_metadata() or () if name.endswith("-bin"))
    return len(message) + round(details)


@pytest.mark.parametrize("fault", ["workspace.tools[6].name", "workspace.hats[0].skill_ids[1]"])
@GRPCIO_IF_SHORT
async def test_many_wide_faults_still_fit_a_response(service: Service, fault: str) -> None:
    """Clients drop a status above 8 KiB, some of them at random, so what does not fit must be left out."""
    workspace = small_workspace()
    if "tools" in fault:
        workspace.tools.extend(workspace_pb2.Tool(id=f"t{i}", name=WIDE, mcp_server=WIDE) for i in range(200))
    else:
        workspace.hats[0].skill_ids.extend(f"{WIDE}{index}" for index in range(200))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.operator.apply(workspace)
    assert trailer_bytes(caught.value) < 8_000
    refused = Refusal.of(caught.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert fault in refused.fields


@pytest.mark.parametrize("list_name", ["members", "teams", "hats", "skills", "tools"])
@GRPCIO_IF_SHORT
async def test_overlong_duplicate_ids_still_fit_a_response(service: Service, list_name: str) -> None:
    """An error about a field is short, however long the field is."""
    workspace = small_workspace()
    id_name = "user_id" if list_name == "members" else "id"
    for _ in range(2):
        copied = getattr(workspace, list_name).add()
        copied.CopyFrom(getattr(workspace, list_name)[0])
        setattr(copied, id_name, "x" * 20_000)
    refused = await refusal(service.operator.apply(workspace))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert f"workspace.{list_name}[{len(getattr(workspace, list_name)) - 2}].{id_name}" in refused.fields


async def test_many_faults_are_reported_as_far_as_they_fit(service: Service) -> None:
    """The first ones, in order."""
    workspace = small_workspace()
    for index in range(1000):
        workspace.tools.add(id=f" bad id {index}", name=f"t{index}", mcp_server="m")
    refused = await refusal(service.operator.apply(workspace))
    assert list(refused.fields)[:20] == [f"workspace.tools[{index}].id" for index in range(5, 25)]
    assert refused.message.endswith("and 97 more")


async def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """With RESOURCE_EXHAUSTED. A message just below the limit is processed."""
    limit = 2**16
    async with serving(database_url, tmp_path, transport=transport, max_message_bytes=limit) as service:
        await service.operator.apply(small_workspace())
        for method in ("KeyService/IssueKey", "CatalogService/ApplyWorkspace", "AuthorizationService/Authorize"):
            assert await code(call(service.operator, method, b"x" * (limit + 1))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        request = authorization_service_pb2.AuthorizeRequest(token="x" * (limit - 4))
        assert request.ByteSize() == limit
        assert await service.operator.denial(request.token) == "MALFORMED"
        assert (await get_workspace(service.operator)).version == 1


@pytest.mark.parametrize("path", ["/skilder.keys.v1.KeyService/NoSuch", "/skilder.keys.v2.KeyService/GetKey", "/x"])
async def test_an_unknown_method_is_unimplemented(service: Service, path: str) -> None:
    """For known and unknown callers alike."""
    for client in (service.operator, await service.client(None)):
        multi_callable: Any = client.channel.unary_unary(path)
        assert await code(multi_callable(b"")) is grpc.StatusCode.UNIMPLEMENTED


CLEAR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ABORTED,
}


async def code(asked: Any) -> grpc.StatusCode:
    """Await a call and return its code."""
    try:
        await asked
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def mutated(source: random.Random, body: bytes) -> bytes:
    """Return a message that was cut, doubled, or changed in some bytes."""
    changed = bytearray(body)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(changed) + 1)
        match source.randrange(5):
            case 0:
                changed[at : at + 1] = source.randbytes(1)
            case 1:
                changed[at:at] = source.randbytes(source.randint(1, 8))
            case 2:
                del changed[at : at + source.randint(1, 8)]
            case 3:
                changed[at:at] = changed[at : at + source.randint(1, 64)]
            case _ if at < len(changed):
                changed[at] ^= 1 << source.randrange(8)
            case _:
                changed += source.randbytes(1)
    return bytes(changed)


async def test_random_bytes_break_nothing(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """300 random or damaged requests: each gets a clear status, none fails as INTERNAL, and nothing changes."""
    count = "SELECT (SELECT count(*) FROM key), (SELECT count(*) FROM workspace), (SELECT count(*) FROM audit_event)"
    issued = await service.operator.issue()
    callers = {method: await service.caller_of(method) for method in METHODS}
    before = await sql.fetchrow(count)
    rotated = 0
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - noise, not a secret
    bodies = {
        method: [request.SerializeToString() for request in requests] for method, requests in valid_requests().items()
    }
    bodies["CatalogService/ApplyWorkspace"].append(small_workspace("nowhere").SerializeToString())
    for index in range(300):
        method = list(METHODS)[index % len(METHODS)]
        noise = source.randbytes(source.randrange(200))
        body = noise if source.random() < 0.2 else mutated(source, source.choice(bodies[method]))
        outcome = await code(call(callers[method], method, body))
        if method == "RuntimeService/RotateOwnKey":
            # A runtime may rotate its key with an empty request, which chance makes, too. Later it has been rotated.
            assert outcome in CLEAR or (rotated and outcome is grpc.StatusCode.FAILED_PRECONDITION), body
            rotated += outcome is grpc.StatusCode.OK
        else:
            assert outcome in CLEAR, (method, body)
    assert [each for each in service.log.events if each["level"] == "error"] == []
    after = await sql.fetchrow(count)
    assert before is not None
    assert after is not None
    assert tuple(after) == (before[0] + rotated, before[1], before[2] + rotated)
    assert (await service.operator.authorize(issued.token)).granted.key.type == key_pb2.KEY_TYPE_WORKSPACE


@pytest.mark.parametrize("method", METHODS)
@GRPCIO_IF_SHORT
@TOGETHER_IF_SHORT
async def test_a_token_in_any_text_is_refused_and_not_repeated(service: Service, method: str) -> None:
    """For every text of every request but the fields that are for tokens; neither the error nor the log has it."""
    token, client = Token.mint(KeyType.WORKSPACE, new_key_id()).reveal(), await service.caller_of(method)
    for request in valid_requests()[method]:
        for value in (token, f"found {token} in a gist"):
            for path, changed in with_each_text(request, value):
                if path.rpartition(".")[2] != "token":
                    refused = await refused_call(client, method, changed)
                    assert path in refused.fields, path
                    assert token not in refused.message + "".join(refused.fields.values()), path
    assert token[27:70] not in str(service.log.events)


async def test_a_token_in_a_text_is_refused_and_not_repeated(service: Service) -> None:
    """People write "found WSK_… in a gist"; that must not be stored, or shown to others."""
    token = (await service.operator.issue()).token
    workspace = small_workspace()
    workspace.hats[0].instructions = f"Use {token}."
    for refused_call, field in (
        (service.operator.revoke(token=token, reason=f"found {token} in a gist"), "reason"),
        (service.operator.issue(description=token), "description"),
        (service.operator.issue(actor=token), "actor"),
        (service.operator.apply(workspace), "workspace.hats[0].instructions"),
    ):
        refused = await refusal(refused_call)
        assert "contains a token" in refused.fields[field]
        assert token not in refused.message


async def test_a_token_in_place_of_a_reference_is_not_repeated(service: Service) -> None:
    """Errors quote dangling and duplicate references, but never a token."""
    token = (await service.operator.issue()).token
    workspace = small_workspace()
    workspace.hats[0].team_ids.append(token)
    workspace.teams[0].parent_id = token
    for name in ("one", "two"):
        workspace.tools.add(id=name, name=f"{token}", mcp_server="m")
    refused = await refusal(service.operator.apply(workspace))
    assert {"workspace.hats[0].team_ids[0]", "workspace.teams[0].parent_id"} <= refused.fields.keys()
    assert token not in refused.message + "".join(refused.fields.values())
