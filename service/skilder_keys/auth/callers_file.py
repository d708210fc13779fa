"""The callers file: who may call the service, in YAML.

callers:
  - name: console
    role: console
    token_sha256: 9f86d081…
  - name: gateway
    role: service
    san: spiffe://acme.example/gateway
    workspaces: [acme]
    mcp_servers: [slack]
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from skilder_keys.auth.callers import KnownCaller
from skilder_keys.auth.errors import CallersFileError
from skilder_keys.domain.access import NO_LIMITS, Caller, CallerLimits, CallerRole
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.yaml_files import reader
from skilder_keys.yaml_files.reader import Mapping, Scalar, Sequence, YamlFileError
from skilder_keys.yaml_files.scalars import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from skilder_keys.yaml_files.reader import Node


LOCAL_OPERATOR = "local-operator"
_MAX_FAULTS = 10
_MAX_TOKENS = 2
_Allowed = Annotated[str, Field(min_length=1, max_length=255)]
# What pydantic's errors are called here, by their type.
_FAULTS = {
    "extra_forbidden": "there is no such field",
    "list_type": "is not a list",
    "missing": "is required",
    "model_type": "is not a mapping",
    "string_type": "is not a text",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


class _Caller(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    role: Literal["operator", "auditor", "console", "service"]
    token_sha256: list[str] | None = None
    san: str | None = Field(None, min_length=1, max_length=500)
    workspaces: list[_Allowed] | None = Field(None, max_length=1000)
    mcp_servers: list[_Allowed] | None = Field(None, max_length=1000)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("must be 1 to 64 letters, digits or ._-, a letter or digit first")
        return value

    @field_validator("token_sha256", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("token_sha256")
    @classmethod
    def _check_digests(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        if not all(map(_SHA256.fullmatch, value)):
            raise ValueError("is not a SHA-256: write the 64 hexadecimal digits that `sha256sum` prints")
        if not 0 < len(value) <= _MAX_TOKENS:
            raise ValueError(f"has {len(value)} values: write one, or two while the caller changes its token")
        # Tools of Windows print the digits in upper case.
        return [each.lower() for each in value]

    @field_validator("workspaces", "mcp_servers", mode="before")
    @classmethod
    def _check_limit(cls, value: object) -> object:
        # A limit without a value could be meant as either.
        if value is None:
            raise ValueError("has no value: write [] to allow none, or leave the field out to allow all")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.token_sha256 is None and self.san is None:
            raise ValueError("needs token_sha256, san or both")
        if self.mcp_servers is not None and self.role != CallerRole.SERVICE.value:
            raise ValueError("mcp_servers is only for the role service: what others see is not divided by MCP server")
        return self

    @property
    def limits(self) -> CallerLimits:
        """What the caller is limited to."""
        if self.workspaces is None and self.mcp_servers is None:
            return NO_LIMITS
        return CallerLimits(
            None if self.workspaces is None else frozenset(map(WorkspaceId, self.workspaces)),
            None if self.mcp_servers is None else frozenset(self.mcp_servers),
        )


class _CallersFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    callers: list[_Caller] = Field(max_length=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("name", "token_sha256", "san"):
            seen: dict[str, int] = {}
            for index, each in enumerate(self.callers):
                value = getattr(each, field)
                for one in value if isinstance(value, list) else [value]:
                    if one in seen and seen[one] == index:
                        raise ValueError(f"callers[{index}] has the same {field} twice")
                    if one is not None and (first := seen.setdefault(one, index)) != index:
                        raise ValueError(f"two callers have the same {field}: callers[{first}] and callers[{index}]")
        if any(each.name == LOCAL_OPERATOR for each in self.callers):
            raise ValueError(f"the name {LOCAL_OPERATOR} is reserved for the operator token in the data folder")
        return self


def load_callers(path: Path) -> list[KnownCaller]:
    """Return the callers that a callers file names.

    Raises:
        CallersFileError: It cannot be read, is not YAML, or a field is invalid. The message names the line, the caller
            and the field, but no value, because a value may be a token in the wrong place.
    """
    try:
        document = reader.read_file(path)
    except YamlFileError as error:
        raise CallersFileError(str(error)) from None
    try:
        parsed = _CallersFile.model_validate(_texts(path, document, document, ()))
    except ValidationError as error:
        messages = (
            _message(path, document, each["loc"], _FAULTS.get(each["type"]) or each["msg"]) for each in error.errors()
        )
        raise CallersFileError("; ".join(islice(messages, _MAX_FAULTS))) from None
    return [
        KnownCaller(
            Caller(each.name, CallerRole(each.role), each.limits),
            tuple(map(bytes.fromhex, each.token_sha256 or ())),
            each.san,
        )
        for each in parsed.callers
    ]


def local_operator(path: Path) -> KnownCaller:
    """Return the operator whose token is in a file. The first time, make a token, and the file with mode 0600.

    Raises:
        CallersFileError: The file contains no token, or others than its owner may read it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"operator_{secrets.token_urlsafe(32)}\n")
    if path.stat().st_mode & 0o077:
        raise CallersFileError(
            f"{path}: others than its owner may read it: run chmod 600, or remove it to make a new one"
        )
    try:
        token = path.read_text("ascii").strip()
    except OSError as error:
        raise CallersFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if len(token) < 32:  # noqa: PLR2004 - much shorter than our tokens, so it was cut short or made by hand
        raise CallersFileError(f"{path}: contains no token: remove it to make a new one")
    return KnownCaller(Caller(LOCAL_OPERATOR, CallerRole.OPERATOR), (hashlib.sha256(token.encode()).digest(),))


def _texts(path: Path, root: Node, node: Node, at: tuple[int | str, ...]) -> object:
    """Return the contents of a node. All scalars must be texts, because YAML changes `on` or 0123 without quotes."""
    if isinstance(node, Mapping):
        return {key: _texts(path, root, value, (*at, key)) for key, value in node.items.items()}
    if isinstance(node, Sequence):
        return [_texts(path, root, item, (*at, index)) for index, item in enumerate(node.items)]
    if node.kind not in (Kind.TEXT, Kind.NOTHING):
        raise CallersFileError(_message(path, root, at, f"is {node.kind.value} in YAML, and not a text: quote it"))
    return node.text if node.kind is Kind.TEXT else None


def _message(path: Path, node: Node, at: tuple[int | str, ...], fault: str) -> str:
    """Return a fault with its line, the name of the caller, and the field, as far as they are known."""
    line, names = node.line, []
    for step in at:
        if isinstance(node, Mapping) and isinstance(step, str):
            line = node.lines.get(step, line)
            names.append(reader.named(step))
            node = node.items.get(step, node)
        elif isinstance(node, Sequence) and isinstance(step, int):
            node = node.items[step]
            line = node.line
            names[-1] += f"[{step}]{_name(node)}"
    return f"{path}:{line}: {': '.join([*names, fault.removeprefix('Value error, ')])}"


def _name(node: Node) -> str:
    name = node.items.get("name") if isinstance(node, Mapping) else None
    return f" {name.text!r}" if isinstance(name, Scalar) and _NAME.fullmatch(name.text) else ""
