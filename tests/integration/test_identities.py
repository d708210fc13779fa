"""Who may call: bearer tokens, roles, runtime keys, client certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest, BatchAuthorizeRequest
from skilder.keys.v1.key_service_pb2 import PREVIOUS_KEYS_KEEP
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import METHODS, call, delete_workspace, list_keys, list_workspaces
from tests.support.certificates import Authority
from tests.support.ids import new_key_id
from tests.support.service import TOKENS, Client, Refusal, Service, refusal, serving, write_callers
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}
GARBAGE = b"\xff\xff\xff\xff"


def forbidden(refused: Refusal, reason: str) -> bool:
    """Return whether a call was refused as not allowed, for this reason."""
    return (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)


async def assert_unknown(client: Client, **options: Any) -> None:
    """Fail unless every method refuses the client as unknown, before it checks the request."""
    for method in METHODS:
        for body in (b"", GARBAGE):
            refused = await refusal(call(client, method, body, **options))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"), method


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer  {TOKENS['operator']}",
        f"Bearer {TOKENS['operator']} ",
        f"Bearer {TOKENS['operator'].upper()}",
        f"Basic {TOKENS['operator']}",
        TOKENS["operator"],
        "Bearer nobody-we-know-0123456789",
        f"Bearer {'x' * 513}",
        f"Bearer RTK_{'x' * 600}",
    ],
)
@TOGETHER_IF_SHORT
async def test_a_caller_without_a_valid_token_is_refused_everywhere(empty_service: Service, header: str | None) -> None:
    """With no token, an empty, unknown or overlong one, or one that is not a bearer token."""
    stranger = await empty_service.client(None)
    await assert_unknown(stranger, metadata=() if header is None else (("authorization", header),))


async def test_the_scheme_is_spelled_in_any_case(empty_service: Service) -> None:
    """As RFC 9110 allows."""
    anybody = await empty_service.client(None)
    for scheme in ("Bearer", "bearer", "BEARER"):
        metadata = (("authorization", f"{scheme} {TOKENS['operator']}"),)
        assert await call(anybody, "CatalogService/ListWorkspaces", b"", metadata=metadata) == b""


async def test_a_caller_with_two_tokens_is_refused(empty_service: Service) -> None:
    """In either order: a proxy in between may read another one than the service does."""
    anybody = await empty_service.client(None)
    metadata = (("authorization", f"Bearer {TOKENS['operator']}"), ("authorization", "Bearer unknown"))
    for both in (metadata, metadata[::-1], metadata[:1] * 2):
        await assert_unknown(anybody, metadata=both)


async def test_a_runtime_instance_may_authorize_keys_of_its_own_workspace(service: Service) -> None:
    """Its runtime key is its bearer token. About a foreign key it learns nothing that is secret."""
    await service.operator.apply(small_workspace("globex"))
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    own, foreign = await service.operator.issue(), await service.operator.issue(workspace_id="globex")
    assert (await instance.authorize(own.token)).granted.key.id == own.key.id
    assert await instance.denial("hello") == "MALFORMED"
    assert await instance.denial(Token.mint(KeyType.WORKSPACE, new_key_id()).reveal()) == "UNKNOWN"
    assert await instance.denial(Token.mint(KeyType.WORKSPACE, Token.parse(foreign.token).key_id).reveal()) == "UNKNOWN"
    assert forbidden(await refusal(instance.authorize(foreign.token)), "FOREIGN_WORKSPACE")
    for revoked in (own, foreign):
        await service.operator.revoke(key_id=revoked.key.id)
    assert await instance.denial(own.token) == "REVOKED"
    assert forbidden(await refusal(instance.authorize(foreign.token)), "FOREIGN_WORKSPACE")


async def test_a_bad_runtime_key_is_refused(service: Service) -> None:
    """Revoked, of a deleted workspace, or with a wrong secret; keys of agents are never accepted."""
    await service.operator.apply(small_workspace("globex"))
    good = await service.operator.issue(**RUNTIME)
    revoked = await service.operator.issue(**RUNTIME, previous_keys=PREVIOUS_KEYS_KEEP)
    gone = await service.operator.issue(**RUNTIME, workspace_id="globex")
    agent = await service.operator.issue()
    user = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="ada")
    await service.operator.revoke(key_id=revoked.key.id)
    await delete_workspace(service.operator, "globex")
    wrong = Token.mint(KeyType.RUNTIME, Token.parse(good.token).key_id).reveal()
    for token in (revoked.token, gone.token, wrong, good.token[:-1], agent.token, user.token):
        await assert_unknown(await service.client(token))
    instance = await service.client(good.token)
    assert await instance.denial(revoked.token) == "REVOKED"
    await service.operator.revoke(key_id=good.key.id)
    await assert_unknown(instance)


async def test_a_runtime_key_is_named_in_the_log_by_its_instance(service: Service) -> None:
    """Every caller is named, accepted or not; its token never appears."""
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    await instance.authorization.BatchAuthorize(BatchAuthorizeRequest(requests=[AuthorizeRequest(token="hello")]))
    await refusal(list_keys(instance))
    await refusal(list_keys(await service.client(None)))
    assert service.log.calls("AuthorizationService/BatchAuthorize")[-1]["caller"] == "runtime:runtime-7"
    forbidden_call, unknown_call = service.log.calls("KeyService/ListKeys")[-2:]
    assert (forbidden_call["caller"], forbidden_call["reason"]) == ("runtime:runtime-7", "CALLER_NOT_ALLOWED")
    assert ("caller" in unknown_call, unknown_call["reason"]) == (False, "UNAUTHENTICATED")


@GRPCIO_IF_SHORT
async def test_the_operators_token_of_the_data_folder_is_accepted(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """As an operator, and unchanged after a restart; not where it is turned off."""
    tokens = set()
    for _ in range(2):
        async with serving(database_url, tmp_path, transport=transport) as service:
            tokens.add((tmp_path / "data" / "operator-token").read_text().strip())
            operator = await service.client(next(iter(tokens)))
            assert list((await list_workspaces(operator)).workspaces) == []
            assert await operator.denial("hello") == "MALFORMED"
    (token,) = tokens
    async with serving(database_url, tmp_path, transport=transport, local_operator=False) as service:
        await assert_unknown(await service.client(token))
        assert list((await list_workspaces(service.operator)).workspaces) == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of the server and of its clients."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture
async def tls_service(
    transport: str, authority: Authority, database_url: str, tmp_path: Path
) -> AsyncIterator[Service]:
    """A service that requires client certificates, and has two callers with one."""
    server = authority.issue("server", "IP:127.0.0.1")
    write_callers(
        tmp_path / "callers.yaml",
        [
            {"name": "gateway", "role": "service", "san": "spiffe://acme.example/gateway"},
            {"name": "console-2", "role": "console", "san": "console.acme.example"},
        ],
    )
    async with serving(
        database_url,
        tmp_path,
        transport=transport,
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.root.certificate,
    ) as service:
        yield service


async def test_a_certificate_identifies_its_caller(tls_service: Service, authority: Authority) -> None:
    """By a URI or DNS name among others, with that caller's role only."""
    uri = authority.issue("gateway", "DNS:elsewhere.example", "URI:spiffe://acme.example/gateway")
    dns = authority.issue("console-2", "DNS:console.acme.example")
    gateway = await tls_service.client(None, authority.credentials(uri))
    console = await tls_service.client(None, authority.credentials(dns))
    assert await gateway.denial("hello") == "MALFORMED"
    assert forbidden(await refusal(list_workspaces(gateway)), "CALLER_NOT_ALLOWED")
    await console.apply(small_workspace(), actor="ada")
    await console.issue(actor="ada")
    assert [line["caller"] for line in tls_service.log.calls("KeyService/IssueKey")] == ["console-2"]
    assert forbidden(await refusal(console.authorize("hello")), "CALLER_NOT_ALLOWED")


async def test_a_bearer_token_counts_before_the_certificate(tls_service: Service, authority: Authority) -> None:
    """A known token identifies its caller, an unknown one is refused; a certificate that is not listed is no caller."""
    gateway = authority.issue("gateway", "URI:spiffe://acme.example/gateway")
    operator = await tls_service.client(TOKENS["operator"], authority.credentials(gateway))
    assert list((await list_workspaces(operator)).workspaces) == []
    await assert_unknown(await tls_service.client("unknown", authority.credentials(gateway)))
    for names in (["DNS:other.example"], ["URI:spiffe://acme.example/gateway/2"], []):
        stranger = authority.issue("stranger", *names)
        await assert_unknown(await tls_service.client(None, authority.credentials(stranger)))
        operator = await tls_service.client(TOKENS["operator"], authority.credentials(stranger))
        assert list((await list_workspaces(operator)).workspaces) == []


async def test_a_certificate_of_another_authority_does_not_connect(
    tls_service: Service, authority: Authority, tmp_path: Path
) -> None:
    """Nor does a client without one, or without TLS: no call reaches a method."""
    other = Authority(tmp_path, "other").issue("gateway", "URI:spiffe://acme.example/gateway")
    for credentials in (authority.credentials(other), authority.credentials(), None):
        client = await tls_service.client(TOKENS["operator"], credentials)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await list_workspaces(client)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert tls_service.log.calls("CatalogService/ListWorkspaces") == []


async def test_tls_without_client_certificates_works_with_bearer_tokens(
    transport: str, authority: Authority, database_url: str, tmp_path: Path
) -> None:
    """A certificate that nobody asked for and nobody verified identifies nobody."""
    server = authority.issue("server", "IP:127.0.0.1")
    write_callers(tmp_path / "callers.yaml", [{"name": "g", "role": "operator", "san": "gateway.example"}])
    async with serving(
        database_url, tmp_path, transport=transport, tls_cert=server.certificate, tls_key=server.key
    ) as service:
        known = await service.client(TOKENS["operator"], authority.credentials())
        assert list((await list_workspaces(known)).workspaces) == []
        await assert_unknown(await service.client(None, authority.credentials()))
        for issuer in (authority, Authority(tmp_path, "other")):
            unverified = issuer.issue("gateway", "DNS:gateway.example")
            await assert_unknown(await service.client(None, authority.credentials(unverified)))
