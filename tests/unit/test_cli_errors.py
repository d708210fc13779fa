"""Failed calls as text and exit codes, and how the command ends after any other error."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import pytest
import typer
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from skilder_keys.cli import main
from skilder_keys.cli.arguments import flags_of
from skilder_keys.cli.errors import flag_of, message_of
from skilder_keys.cli.exits import Exit, reason
from skilder_keys.cli.secrets import redacted

if TYPE_CHECKING:
    from google.protobuf.message import Message

FLAGS = {
    "user": "--user",
    "workspace": "--workspace",
    "hat": "--hat",
    "all_hats": "--all-hats",
    "type_": "--type",
    "request_id": "--request-id",
    "unused_since": "--unused-since",
    "label": "--label",
    "key": "KEY",
    "description": "description",
}
TOKEN = f"WSK_{'0' * 71}"


class Failed(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, *packed: Message) -> None:
        status = Status(code=code.value[0], message=details)
        for each in packed:
            status.details.add().Pack(each)
        self._status: Any = (code, details, [("grpc-status-details-bin", status.SerializeToString())] if packed else [])

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return self._status[0]  # type: ignore[no-any-return]

    def details(self) -> str:
        """Return the message."""
        return str(self._status[1])

    def trailing_metadata(self) -> Any:
        """Return the details."""
        return self._status[2]


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each is not grpc.StatusCode.OK])
def test_every_status_has_a_message_and_an_exit_code_that_is_no_decision(code: grpc.StatusCode) -> None:
    """Whether the service or gRPC itself made the status."""
    for error in (Failed(code, "It is so."), Failed(code, ""), Failed(code, "It is so.", ErrorInfo(reason="SO"))):
        text, exit_code = message_of(error, "127.0.0.1:1", FLAGS)
        assert text.strip()
        assert exit_code not in {Exit.OK, Exit.DENIED}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "Long.", ErrorInfo(reason="MESSAGE_TOO_LONG")), Exit.USAGE),
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 4)"), Exit.USAGE),
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 4)"), Exit.USAGE),
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 4)"), Exit.FAILED),
        (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"), Exit.UNAVAILABLE),
        (Failed(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), Exit.FAILED),
        (Failed(grpc.StatusCode.UNAUTHENTICATED, "Unknown.", ErrorInfo(reason="UNAUTHENTICATED")), Exit.FORBIDDEN),
    ],
)
def test_one_status_can_mean_different_exit_codes(error: Failed, exit_code: Exit) -> None:
    """For example, a message that is too large is no outage."""
    assert message_of(error, "127.0.0.1:1", FLAGS)[1] is exit_code


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("user_id", "--user"),
        ("workspace_id", "--workspace"),
        ("type", "--type"),
        ("key_id", "KEY"),
        ("description", "description"),
        ("hat_limit.hat_ids[0]", "--hat (number 1)"),
        ("unlimited", "--all-hats"),
        ("filter.unused_since", "--unused-since"),
        ("filter.labels[1]", "--label (number 2)"),
        ("labels", "--label"),
        ("filter.user_ids[0]", "--user (number 1)"),
        ("runtime_id", "runtime_id"),
        ("workspace.members[3].user_id", "workspace.members[3].user_id"),
        ("", ""),
    ],
)
def test_a_field_is_named_by_its_flag(field: str, flag: str) -> None:
    """A field that no flag sets keeps its own name."""
    assert flag_of(field, FLAGS) == flag


def test_flags_are_derived_from_the_command() -> None:
    """A new option needs no entry in a table."""

    def command(
        name: Annotated[str, typer.Argument(metavar="NAME")],
        plain: Annotated[str, typer.Argument()],
        some_thing: Annotated[str, typer.Option()] = "",
        type_: Annotated[str, typer.Option("-t", "--type")] = "",
    ) -> None:
        del name, plain, some_thing, type_

    parameters = inspect.signature(command, eval_str=True).parameters
    assert flags_of(dict(parameters)) == {
        "name": "NAME",
        "plain": "plain",
        "some_thing": "--some-thing",
        "type_": "--type",
    }


def test_sentences_name_flags_instead_of_fields() -> None:
    """Except inside quotes."""
    violations = BadRequest(field_violations=[BadRequest.FieldViolation(field="user_id", description="is required")])
    malformed = Failed(grpc.StatusCode.INVALID_ARGUMENT, "user_id is required", ErrorInfo(reason="X"), violations)
    assert message_of(malformed, "", FLAGS)[0] == "the request is malformed:\n  --user is required"
    used = Failed(grpc.StatusCode.ALREADY_EXISTS, "This request_id is no 'user_id'.", ErrorInfo(reason="REQUEST_USED"))
    assert message_of(used, "", FLAGS)[0] == "This --request-id is no 'user_id'."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("so\n it is"), "so it is"),
        (TimeoutError(), "TimeoutError"),
        (OSError("postgresql://keys:hunter2@db/keys: no"), "postgresql://keys:…@db/keys: no"),
        (ValueError("x" * 10_000), f"{'x' * 500}…"),
    ],
)
def test_every_error_has_a_reason(error: Exception, text: str) -> None:
    """The reason shows no password, and is one line of bounded length."""
    assert reason(error) == text


def test_an_unexpected_error_is_no_decision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with exit code 70 and one line with the reason."""

    def fails(**_: object) -> None:
        raise ValueError("the moon is full")

    monkeypatch.setattr(main, "app", fails)
    assert main.run_app() is Exit.FAILED
    text = capsys.readouterr().err
    assert "the moon is full" in text
    assert len(text.splitlines()) == 1


def test_no_token_reaches_standard_error() -> None:
    """Even where the command's own usage error would repeat it."""
    assert redacted(f"Got unexpected extra argument ({TOKEN})") == "Got unexpected extra argument (…)"
