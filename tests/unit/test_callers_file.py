"""The callers file and the operator's token: what is accepted, what is refused, and that errors never show a token."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from skilder_keys.auth.callers import KnownCaller
from skilder_keys.auth.callers_file import load_callers, local_operator
from skilder_keys.auth.errors import CallersFileError
from skilder_keys.domain.access import NO_LIMITS, Caller, CallerLimits, CallerRole
from skilder_keys.domain.ids import WorkspaceId

if TYPE_CHECKING:
    from pathlib import Path

SHA = hashlib.sha256(b"a token").hexdigest()
TOKEN = "operator_p8WqXo0cT5vE1nQz7RkYb3uJ9sLmA2dH4gFi6wCxVtN"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path where no file exists yet."""
    return tmp_path / "file"


def entry(**fields: Any) -> dict[str, Any]:
    """Make a valid caller with other fields; None leaves a field out."""
    found = {"name": "console", "role": "console", "token_sha256": SHA} | fields
    return {name: value for name, value in found.items() if value is not None}


def refusal(path: Path, content: str) -> str:
    """Return why a callers file is refused. The error always names the file, and never shows any part of a token."""
    path.write_text(content)
    with pytest.raises(CallersFileError) as caught:
        load_callers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    pieces = (TOKEN[at : at + 8] for at in range(9, len(TOKEN) - 7))
    assert [piece for piece in pieces if piece in message] == []
    return re.sub(r"^[0-9]*: ", "", message.removeprefix(f"{path}:"), count=1)


def test_callers_are_read(path: Path) -> None:
    """Callers with a token, a certificate or both are read in the order of the file."""
    gateway = {"name": "gateway", "role": "service", "san": "spiffe://acme.example/gateway"}
    both = {"name": "ops-1.acme_x", "role": "operator", "san": "ops.acme.example", "token_sha256": "0" * 63 + "a"}
    path.write_text(yaml.safe_dump({"callers": [entry(), gateway, both]}))
    assert load_callers(path) == [
        KnownCaller(Caller("console", CallerRole.CONSOLE), (hashlib.sha256(b"a token").digest(),), None),
        KnownCaller(Caller("gateway", CallerRole.SERVICE), (), "spiffe://acme.example/gateway"),
        KnownCaller(Caller("ops-1.acme_x", CallerRole.OPERATOR), (bytes(31) + b"\x0a",), "ops.acme.example"),
    ]


def test_a_file_may_have_no_callers(path: Path) -> None:
    """The operator's token is enough."""
    path.write_text("callers: []\n")
    assert load_callers(path) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"role": "admin"}, "role"),
        ({"role": "runtime"}, "role"),
        ({"role": "Operator"}, "role"),
        ({"role": None}, "role"),
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "console\n"}, "name"),
        ({"name": "n" * 65}, "name"),
        ({"name": 7}, "name"),
        ({"token_sha256": SHA[:-1]}, "token_sha256"),
        ({"token_sha256": f"{SHA}  -"}, "token_sha256"),
        ({"token_sha256": f"{SHA}\n"}, "token_sha256"),
        ({"token_sha256": TOKEN}, "token_sha256"),
        ({"token_sha256": ""}, "token_sha256"),
        ({"token_sha256": []}, "token_sha256"),
        ({"token_sha256": [SHA, "0" * 64, "1" * 64]}, "token_sha256"),
        ({"token_sha256": [SHA, TOKEN]}, "token_sha256"),
        ({"token_sha256": [SHA, 7]}, "token_sha256[1]"),
        ({"workspaces": "acme"}, "workspaces"),
        ({"workspaces": [""]}, "workspaces[0]"),
        ({"workspaces": {"acme": "all"}}, "workspaces"),
        ({"mcp_servers": "slack", "role": "service"}, "mcp_servers"),
        ({"mcp_servers": ["s" * 256], "role": "service"}, "mcp_servers[0]"),
        ({"san": ""}, "san"),
        ({"san": ["a", "b"]}, "san"),
        ({"token": TOKEN}, "token"),
        ({"workspace_id": "acme"}, "workspace_id"),
    ],
)
def test_a_field_at_fault_is_named(path: Path, fields: dict[str, Any], field: str) -> None:
    """The error gives the caller's place in the file and the field."""
    message = refusal(path, yaml.safe_dump({"callers": [entry(**fields)]}))
    assert re.match(rf"callers\[0\](?: '(console|7)')?: {re.escape(field)}: ", message), message


def test_a_digest_may_be_in_upper_case(path: Path) -> None:
    """Windows tools write it so. Two callers cannot share a digest by writing it differently."""
    path.write_text(yaml.safe_dump({"callers": [entry(token_sha256=SHA.upper())]}))
    assert load_callers(path)[0].token_sha256 == (bytes.fromhex(SHA),)
    both = [entry(), entry(name="other", token_sha256=SHA.upper())]
    assert "the same token_sha256: callers[0] and callers[1]" in refusal(path, yaml.safe_dump({"callers": both}))


def test_a_caller_may_have_two_tokens_while_it_changes_them(path: Path) -> None:
    """Both are the caller's own: neither twice, and neither another caller's."""
    path.write_text(yaml.safe_dump({"callers": [entry(token_sha256=[SHA, "0" * 64])]}))
    assert load_callers(path)[0].token_sha256 == (bytes.fromhex(SHA), bytes(32))
    twice = {"callers": [entry(token_sha256=[SHA, SHA.upper()])]}
    assert "callers[0] has the same token_sha256 twice" in refusal(path, yaml.safe_dump(twice))
    both = {"callers": [entry(token_sha256=["0" * 64, SHA]), entry(name="other", token_sha256=[SHA])]}
    assert "the same token_sha256: callers[0] and callers[1]" in refusal(path, yaml.safe_dump(both))


def test_a_limit_that_is_set_and_empty_allows_nothing(path: Path) -> None:
    """It is not the same as a limit that is left out."""
    limits = {"workspaces": ["acme", "other"], "mcp_servers": ["slack"]}
    nothing: dict[str, Any] = {"workspaces": [], "mcp_servers": []}
    gateway = entry(role="service", name="gateway", token_sha256="0" * 64)
    agent = entry(role="service", name="agent", token_sha256="1" * 64)
    path.write_text(yaml.safe_dump({"callers": [entry(), gateway | limits, agent | nothing]}))
    assert [each.caller.limits for each in load_callers(path)] == [
        NO_LIMITS,
        CallerLimits(frozenset(map(WorkspaceId, limits["workspaces"])), frozenset({"slack"})),
        CallerLimits(frozenset(), frozenset()),
    ]


@pytest.mark.parametrize("field", ["workspaces", "mcp_servers"])
def test_a_limit_without_a_value_is_refused(path: Path, field: str) -> None:
    """Somebody who removed the last entry may mean none, and YAML reads it as nothing."""
    content = f"callers:\n- name: gateway\n  role: service\n  token_sha256: {SHA}\n  {field}:\n"
    assert refusal(path, content).startswith(f"callers[0] 'gateway': {field}: has no value: write [] to allow none")


@pytest.mark.parametrize("role", ["operator", "auditor", "console"])
def test_only_a_service_is_limited_to_mcp_servers(path: Path, role: str) -> None:
    """The others see and change whole workspaces, so the limit would promise what it does not do."""
    content = yaml.safe_dump({"callers": [entry(role=role, mcp_servers=["slack"])]})
    assert "mcp_servers is only for the role service" in refusal(path, content)


@pytest.mark.parametrize("role", [role for role in CallerRole if role is not CallerRole.RUNTIME])
def test_a_caller_may_have_any_role_but_that_of_runtime_instances(path: Path, role: CallerRole) -> None:
    """They have runtime keys."""
    path.write_text(yaml.safe_dump({"callers": [entry(role=role.value)]}))
    assert [known.caller.role for known in load_callers(path)] == [role]


@pytest.mark.parametrize("form", ["  role: operator\n  role: service", "  role: operator\n  name: other"])
def test_a_duplicate_field_is_refused(path: Path, form: str) -> None:
    """Otherwise the last one would win silently, and a service could become an operator."""
    content = f"callers:\n- name: gateway\n  token_sha256: {SHA}\n{form}\n"
    message = refusal(path, content)
    assert re.fullmatch(r"(role|name) occurs twice, first in line [24]", message), message


def test_a_value_that_yaml_does_not_read_as_text_must_be_quoted(path: Path) -> None:
    """The error names the caller, field and line, but not the value, which may be a token."""
    path.write_text("callers:\n- name: ops\n  role: operator\n  san: 0104233\n")
    with pytest.raises(CallersFileError) as caught:
        load_callers(path)
    text = "is a number in YAML, and not a text: quote it"
    assert str(caught.value) == f"{path}:4: callers[0] 'ops': san: {text}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_may_come_from_windows(path: Path, encoding: str) -> None:
    """It may have a byte order mark, UTF-16 and Windows line breaks."""
    path.write_bytes(yaml.safe_dump({"callers": [entry()]}).replace("\n", "\r\n").encode(encoding))
    assert load_callers(path) == [KnownCaller(Caller("console", CallerRole.CONSOLE), (bytes.fromhex(SHA),), None)]


def test_a_caller_needs_a_token_or_a_certificate(path: Path) -> None:
    """A caller with neither would let in nobody, or everybody."""
    message = refusal(path, yaml.safe_dump({"callers": [entry(), entry(name="x", token_sha256=None)]}))
    assert message.startswith("callers[1] 'x': ")
    assert "needs token_sha256, san or both" in message


@pytest.mark.parametrize("field", ["name", "token_sha256", "san"])
def test_two_callers_cannot_share_an_identity(path: Path, field: str) -> None:
    """A name, a token or a certificate belongs to one caller only."""
    first = entry(san="one.example")
    other = {"name": "other", "role": "service", "token_sha256": "0" * 64, "san": "two.example"}
    message = refusal(path, yaml.safe_dump({"callers": [first, other | {field: first[field]}]}))
    assert f"two callers have the same {field}" in message


@pytest.mark.parametrize(
    "content",
    [
        "",
        "callers:",
        "[]",
        "callers: console",
        "callers: {a: b}",
        "callers: [a]",
        "callers: []\nmore: 1",
        f"token: {TOKEN}",
    ],
)
def test_a_file_of_another_shape_is_refused(path: Path, content: str) -> None:
    """Anything that is not a list of callers is refused."""
    assert refusal(path, content)


@pytest.mark.parametrize(
    "content",
    [
        "callers: [",
        "\tcallers: []",
        "callers: \x00",
        "!!python/object/apply:os.getcwd []",
        f'callers:\n  - name: a\n    token: "{TOKEN}',
        f"callers:\n  - token: {TOKEN}: x",
        f"callers:\n  - {{token: {TOKEN}",
    ],
    ids=["open list", "tab", "nul", "object", "open quote", "colon", "open map"],
)
def test_a_file_that_is_no_yaml_is_refused(path: Path, content: str) -> None:
    """The error gives the position but not the text, which may be a misplaced token."""
    assert refusal(path, content)


def test_a_file_that_cannot_be_read_is_refused(path: Path, tmp_path: Path) -> None:
    """The file is missing, a folder, or not UTF-8."""
    with pytest.raises(CallersFileError, match="No such file"):
        load_callers(path)
    with pytest.raises(CallersFileError, match="directory"):
        load_callers(tmp_path)
    path.write_bytes(b"callers: \xff")
    with pytest.raises(CallersFileError, match=r":1: byte 0xFF is not UTF-8"):
        load_callers(path)


def test_the_operators_token_is_made_once(path: Path) -> None:
    """The file is readable by its owner only; the second start reads it."""
    first = local_operator(path)
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 50
    assert first == KnownCaller(
        Caller("local-operator", CallerRole.OPERATOR), (hashlib.sha256(token.encode()).digest(),)
    )
    assert local_operator(path) == first
    assert path.read_text().strip() == token


def test_each_operators_token_is_random(tmp_path: Path) -> None:
    """Two installations have different tokens."""
    assert local_operator(tmp_path / "one").token_sha256 != local_operator(tmp_path / "two").token_sha256


def test_the_files_mode_does_not_depend_on_the_umask(path: Path) -> None:
    """Nobody else can read the file, not even for a moment."""
    before = os.umask(0)
    try:
        local_operator(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o644, 0o601])
def test_a_token_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    """The error says what to do, and does not show the content of the file."""
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(CallersFileError, match="chmod 600") as caught:
        local_operator(path)
    assert TOKEN not in str(caught.value)
    path.chmod(0o600)
    assert local_operator(path).token_sha256 == (hashlib.sha256(TOKEN.encode()).digest(),)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"   ", b"operator_", b"x" * 31, b"\xff" * 60, "é".encode() * 40],
    ids=["empty", "line", "spaces", "prefix", "short", "no text", "no ASCII"],
)
def test_a_file_without_a_token_is_refused(path: Path, content: bytes) -> None:
    """The file is empty, truncated or something else. An empty token would let in all who send none."""
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(CallersFileError, match="contains no token"):
        local_operator(path)
