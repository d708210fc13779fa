"""The callers file: who may call the service, in YAML.

callers:
  - name: console
    role: console
    token_sha256: 9f86d081…
  - name: gateway
    role: service
    san: spiffe://acme.example/gateway
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.domain.access import Caller, CallerRole
from service.rpc.callers import KnownCaller

if TYPE_CHECKING:
    from pathlib import Path


LOCAL_OPERATOR = "local-operator"


class CallersFileError(Exception):
    """The callers file, or the file with the operator's token, is not as it must be."""


class _Caller(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    role: Literal["operator", "console", "service"]
    token_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    san: str | None = Field(None, min_length=1, max_length=500)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.token_sha256 is None and self.san is None:
            raise ValueError("needs token_sha256, san or both")
        return self


class _CallersFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    callers: list[_Caller] = Field(max_length=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("name", "token_sha256", "san"):
            values = [value for each in self.callers if (value := getattr(each, field)) is not None]
            if len(set(values)) < len(values):
                raise ValueError(f"two callers have the same {field}")
        if any(each.name == LOCAL_OPERATOR for each in self.callers):
            raise ValueError(f"the name {LOCAL_OPERATOR} is that of the caller whose token is in the data folder")
        return self


def load_callers(path: Path) -> list[KnownCaller]:
    """Reads a callers file.

    Raises:
        CallersFileError: It cannot be read, is no YAML, or a field is not as it must be, which is named.
    """
    try:
        parsed = _CallersFile.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise CallersFileError(_told(path, error)) from None
    except yaml.YAMLError as error:
        # Its own words quote the line at fault, which may hold what somebody took for a token's place.
        mark = getattr(error, "problem_mark", None)
        at = f" in line {mark.line + 1}" if mark else ""
        raise CallersFileError(f"{path}: is not YAML{at}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors())
        raise CallersFileError(f"{path}: {faults}") from None
    return [
        KnownCaller(
            Caller(each.name, CallerRole(each.role)),
            None if each.token_sha256 is None else bytes.fromhex(each.token_sha256),
            each.san,
        )
        for each in parsed.callers
    ]


def local_operator(path: Path) -> KnownCaller:
    """Answers the caller whose token is kept in a file; makes the token, and the file with mode 0600, the first time.

    Raises:
        CallersFileError: The file holds no token, or others than its owner may read it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"operator_{secrets.token_urlsafe(32)}\n")
    if path.stat().st_mode & 0o077:
        raise CallersFileError(f"{path}: others than its owner may read it: chmod 600, or remove it to make a new one")
    try:
        token = path.read_text("ascii").strip()
    except OSError as error:
        raise CallersFileError(_told(path, error)) from None
    except UnicodeDecodeError:
        token = ""
    if len(token) < 32:  # noqa: PLR2004 - far below what we write: cut short, or made by hand
        raise CallersFileError(f"{path}: holds no token: remove it to make a new one")
    return KnownCaller(Caller(LOCAL_OPERATOR, CallerRole.OPERATOR), hashlib.sha256(token.encode()).digest())


def _told(path: Path, error: OSError | UnicodeDecodeError) -> str:
    return f"{path}: {error.strerror if isinstance(error, OSError) else 'is no utf-8 text'}"
