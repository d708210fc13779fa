"""`buf breaking` finds every change of the contract that breaks callers, and allows what only adds to it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lengths import by_form

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
FOLDER = Path("protos", "skilder", "keys", "v1")

KEY, KEY_SERVICE, ERRORS = "key.proto", "key_service.proto", "errors.proto"
KEY_ID_IN_A_ONEOF = r"(oneof target \{.*?)    string key_id = 1;\n(.*?\n  \}\n)"
GET_KEY = r"  rpc GetKey\(GetKeyRequest\) returns \(GetKeyResponse\)( \{.*?\n  \}|;)\n"

# What is done to a file, as a pattern and its replacement, and the rule of buf that must report it.
BREAKING = {
    "a field is removed": (KEY, r"  string revoke_reason = 16;\n", "", "FIELD_NO_DELETE"),
    "a field is removed and reserved": (
        KEY,
        r"  string revoke_reason = 16;\n",
        '  reserved 16;\n  reserved "revoke_reason";\n',
        "FIELD_NO_DELETE",
    ),
    "a field has another number": (KEY, r"revoke_reason = 16;", "revoke_reason = 1000;", "FIELD_NO_DELETE"),
    "a number is used again": (KEY, r"revoke_reason = 16;", "other = 16;", "FIELD_SAME_NAME"),
    "a reserved number is used again": (
        KEY,
        r"  reserved 900;\n",
        "  string other = 900;\n",
        "RESERVED_MESSAGE_NO_DELETE",
    ),
    "a reserved number is dropped": (KEY, r"  reserved 900;\n", "", "RESERVED_MESSAGE_NO_DELETE"),
    "a reserved name is dropped": (KEY, r'  reserved "gone";\n', "", "RESERVED_MESSAGE_NO_DELETE"),
    "a field has another type": (KEY, r"string revoke_reason = 16;", "bytes revoke_reason = 16;", "FIELD_SAME_TYPE"),
    "a field is a list": (KEY, r"string revoke_reason", "repeated string revoke_reason", "FIELD_SAME_CARDINALITY"),
    "a number is wider": (KEY_SERVICE, r"int32 page_size", "int64 page_size", "FIELD_SAME_TYPE"),
    "a field is renamed": (KEY, r"revoke_reason = 16;", "revocation_reason = 16;", "FIELD_SAME_NAME"),
    "a field moves out of a oneof": (
        KEY_SERVICE,
        KEY_ID_IN_A_ONEOF,
        r"\1\2  string key_id = 1;\n",
        "FIELD_SAME_ONEOF",
    ),
    "a field moves into a oneof": (
        KEY_SERVICE,
        r"(oneof target \{)(.*?\n  \}\n.*?)  string reason = 3;\n",
        r"\1\n    string reason = 3;\2",
        "FIELD_SAME_ONEOF",
    ),
    "a value of an enum is removed": (KEY, r"  KEY_STATE_REVOKED = 2;\n", "", "ENUM_VALUE_NO_DELETE"),
    "a value of an enum is renamed": (KEY, r"KEY_STATE_REVOKED", "KEY_STATE_ENDED", "ENUM_VALUE_SAME_NAME"),
    "an enum is removed": (ERRORS, r"enum ErrorReason \{.*?\n\}\n", "", "ENUM_NO_DELETE"),
    "a method is removed": (KEY_SERVICE, GET_KEY, "", "RPC_NO_DELETE"),
    "a method is renamed": (KEY_SERVICE, r"rpc GetKey\(", "rpc ReadKey(", "RPC_NO_DELETE"),
    "a method returns another message": (KEY_SERVICE, r"\(GetKeyResponse\)", "(ListKeysResponse)", "RPC_SAME_RESPONSE"),
    "a method streams": (KEY_SERVICE, r"\(GetKeyResponse\)", "(stream GetKeyResponse)", "RPC_SAME_SERVER_STREAMING"),
    "a method may not be retried any more": (
        KEY_SERVICE,
        r"    option idempotency_level = IDEMPOTENT;\n",
        "",
        "RPC_SAME_IDEMPOTENCY_LEVEL",
    ),
    "a number becomes a bigint in a browser": (
        "workspace.proto",
        r" \[jstype = JS_STRING\]",
        "",
        "FIELD_SAME_JSTYPE",
    ),
    "the package of Go stubs is another": (KEY, r"skilder.dev/keys/v1;keysv1", "skilder.dev/keys", "FILE_SAME_GO_PACK"),
}

ADDITIONS = {
    "a field": (KEY, r"(message Key \{)", r"\1\n  string other = 1000;"),
    "a field of a request": (KEY_SERVICE, r"(message IssueKeyRequest \{)", r"\1\n  string other = 1000;"),
    "a value of an enum": (KEY, r"(KEY_STATE_REVOKED = 2;)", r"\1\n  KEY_STATE_OTHER = 1000;"),
    "a member of a oneof": (KEY_SERVICE, r"(oneof target \{)", r"\1\n    string hint = 1000;"),
    "a method": (KEY_SERVICE, r"(service KeyService \{)", r"\1\n  rpc Other(GetKeyRequest) returns (GetKeyResponse);"),
    "a message": (KEY, r"(message Key \{)", r"message Other {\n  string id = 1;\n}\n\1"),
    "a service": (KEY_SERVICE, r"(service KeyService \{)", r"service OtherService {}\n\1"),
    "a comment": (KEY, r"(message Key \{)", r"// Another comment.\n\1"),
}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the contract with a field that was removed long ago, and its baseline."""
    folder = tmp_path_factory.mktemp("contract")
    shutil.copytree(ROOT / "protos", folder / "protos", ignore=shutil.ignore_patterns("*.binpb"))
    shutil.copy(ROOT / "buf.yaml", folder)
    key = folder / FOLDER / KEY
    key.write_text(
        key.read_text("utf-8").replace("message Key {\n", 'message Key {\n  reserved 900;\n  reserved "gone";\n')
    )
    subprocess.run([BUF, "build", "--exclude-source-info", "--output=baseline.binpb"], cwd=folder, check=True)
    return folder


def breaks(contract: Path, folder: Path, change: tuple[str, str, str]) -> tuple[int, str]:
    """Change a file of a copy of the contract. Return what `buf breaking` says."""
    shutil.copytree(contract, folder, dirs_exist_ok=True)
    file, pattern, replacement = change
    path = folder / FOLDER / file
    changed, count = re.subn(pattern, replacement, path.read_text("utf-8"), flags=re.DOTALL)
    assert count > 0, f"{file} does not have what the test changes"
    path.write_text(changed, "utf-8")
    # With --error-format=json each finding has the rule that it breaks.
    command = [str(BUF), "breaking", "--against=baseline.binpb", "--error-format=json"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("what", by_form(list(BREAKING)[::4], list(BREAKING)))
def test_a_breaking_change_is_found(contract: Path, tmp_path: Path, what: str) -> None:
    """Each kind of it, by the rule that is meant for it."""
    file, pattern, replacement, rule = BREAKING[what]
    code, output = breaks(contract, tmp_path, (file, pattern, replacement))
    assert code != 0
    assert f'"type":"{rule}' in output


@pytest.mark.parametrize("what", by_form(list(ADDITIONS)[::4], list(ADDITIONS)))
def test_an_addition_is_allowed(contract: Path, tmp_path: Path, what: str) -> None:
    """It leaves callers as they are."""
    assert breaks(contract, tmp_path, ADDITIONS[what]) == (0, "")


def test_lint_compares_with_the_committed_baseline() -> None:
    """And checks that the baseline has everything that the contract has."""
    make = shutil.which("make") or "make"
    done = subprocess.run([make, "--dry-run", "lint"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "buf breaking --against protos/baseline.binpb\n" in done.stdout
    assert "cmp protos/baseline.binpb build/baseline.binpb" in done.stdout
