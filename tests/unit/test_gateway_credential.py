"""The key of a request to a gateway: where it may be, and what is removed from the request."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from skilder_keys.rpc.gateway.credential import MAX_HEADERS, MAX_PARAMETERS, presented
from skilder_keys.rpc.gateway.request import GatewayRequest, RefusedError

TOKEN = "WSK_0123456789"
BEARER = ("authorization", f"Bearer {TOKEN}")
API_KEY = ("x-api-key", TOKEN)


def request(*headers: tuple[str, str], target: str = "/mcp", parameter: str | None = "api_key") -> GatewayRequest:
    """Return a request."""
    return GatewayRequest("GET", target, headers, key_parameter=parameter)


@pytest.mark.parametrize(
    ("headers", "target", "goes_on"),
    [
        ([BEARER], "/mcp", None),
        ([("authorization", f"bEARER   {TOKEN} ")], "/mcp", None),
        ([API_KEY], "/mcp?a=1", None),
        ([("x-api-key", f"\t{TOKEN}")], "/mcp", None),
        ([], f"/mcp?api_key={TOKEN}", "/mcp"),
        ([], f"/mcp?a=%20&api_key={TOKEN}&b", "/mcp?a=%20&b"),
        ([], f"/mcp?%61pi%5fkey={TOKEN}&a=1&a=2", "/mcp?a=1&a=2"),
        ([], f"/mcp?api_key={TOKEN.replace('W', '%57')}", "/mcp"),
        ([], f"/mcp?&api_key={TOKEN}&", "/mcp?&"),
        ([BEARER], "/mcp?other=1", None),
    ],
)
def test_a_key_is_in_one_place(headers: list[tuple[str, str]], target: str, goes_on: str | None) -> None:
    """A header or the query parameter, from which it is removed."""
    found = presented(request(*headers, target=target))
    assert found.token == TOKEN
    assert found.target == goes_on
    assert {"authorization", "x-api-key"} <= set(found.remove)
    assert TOKEN not in repr(found) + repr(request(*headers, target=target))


@pytest.mark.parametrize(
    ("headers", "target", "reason"),
    [
        ([], "/mcp", "key_missing"),
        ([], f"/mcp?key={TOKEN}", "key_missing"),
        ([], f"/mcp?%2561pi_key={TOKEN}", "key_missing"),
        ([BEARER, BEARER], "/mcp", "key_ambiguous"),
        ([API_KEY, API_KEY], "/mcp", "key_ambiguous"),
        ([BEARER, API_KEY], "/mcp", "key_ambiguous"),
        ([BEARER], f"/mcp?api_key={TOKEN}", "key_ambiguous"),
        ([BEARER, API_KEY], f"/mcp?api_key={TOKEN}", "key_ambiguous"),
        ([], f"/mcp?api_key={TOKEN}&%61pi_key={TOKEN}", "key_ambiguous"),
        ([BEARER], "/mcp?api_key=", "key_ambiguous"),
        ([BEARER], "/mcp?api_key", "key_ambiguous"),
        ([BEARER, ("x-api-key", "")], "/mcp", "key_ambiguous"),
        ([BEARER, ("x_api_key", TOKEN)], "/mcp", "key_ambiguous"),
        ([BEARER, ("x.api.key", TOKEN)], "/mcp", "key_ambiguous"),
        ([API_KEY, ("authorization", "Basic YTpi")], "/mcp", "key_ambiguous"),
        ([BEARER], f"/mcp?API-KEY={TOKEN}", "key_ambiguous"),
        ([("authorization", f"Bearer {TOKEN},Bearer {TOKEN}")], "/mcp", "key_malformed"),
        ([("authorization", f"Bearer {TOKEN} {TOKEN}")], "/mcp", "key_malformed"),
        ([("authorization", TOKEN)], "/mcp", "key_malformed"),
        ([("authorization", f"Bearer\t{TOKEN}")], "/mcp", "key_malformed"),
        ([("authorization", "Bearer")], "/mcp", "key_malformed"),
        ([("authorization", "Basic YTpi")], "/mcp", "key_malformed"),
        ([("authorization", "")], "/mcp", "key_malformed"),
        ([("x_api_key", TOKEN)], "/mcp", "key_malformed"),
        ([("x-api-key", f"{TOKEN},{TOKEN}")], "/mcp", "key_malformed"),
        ([("x-api-key", f"{TOKEN}\r\nx-skilder-key: a")], "/mcp", "key_malformed"),
        ([("x-api-key", f"{TOKEN}\u00e9")], "/mcp", "key_malformed"),
        ([], f"/mcp?api-key={TOKEN}", "key_malformed"),
        ([], f"/mcp?+api_key={TOKEN}", "key_malformed"),
        ([], f"/mcp?api_key={TOKEN}%0d%0aa", "key_malformed"),
        ([], f"/mcp?api_key={TOKEN}%00", "key_malformed"),
        ([], f"/mcp?api_key={TOKEN}#a", "key_malformed"),
    ],
)
def test_anything_else_is_refused(headers: list[tuple[str, str]], target: str, reason: str) -> None:
    """With 401 and a challenge, and without the key in the message."""
    with pytest.raises(RefusedError) as caught:
        presented(request(*headers, target=target))
    assert (caught.value.status, caught.value.reason) == (HTTPStatus.UNAUTHORIZED, reason)
    assert (caught.value.challenge or "").startswith('Bearer realm="skilder"')
    assert ('error="' in (caught.value.challenge or "")) == (reason != "key_missing")
    assert TOKEN not in str(caught.value)


def test_a_query_holds_no_key_unless_it_may() -> None:
    """Then it is not looked at, and goes on as it is."""
    assert presented(request(BEARER, target=f"/mcp?api_key={TOKEN}", parameter=None)).target is None


def test_identity_headers_of_the_client_are_removed() -> None:
    """However they are spelled; other headers stay."""
    spoofed = ("x-skilder-key", "x_skilder_key", "x-skilder_user", "x.skilder.workspace", "x-skilder-of-tomorrow")
    found = presented(request(BEARER, *((name, "evil") for name in spoofed), ("x-other", "1"), ("x-skilder", "1")))
    assert set(found.remove) == {"authorization", "x-api-key", *spoofed}


@pytest.mark.parametrize(
    "many",
    [
        request(BEARER, *[("a", "1")] * MAX_HEADERS),
        request(target=f"/?{'&' * MAX_PARAMETERS}api_key={TOKEN}"),
    ],
    ids=["headers", "parameters"],
)
def test_what_is_searched_has_a_bound(many: GatewayRequest) -> None:
    """No client can make this take long."""
    with pytest.raises(RefusedError) as caught:
        presented(many)
    assert caught.value.status is HTTPStatus.BAD_REQUEST
    assert caught.value.challenge is None
