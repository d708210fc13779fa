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
import re
import secrets
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from skilder_keys.auth.callers import KnownCaller
from skilder_keys.auth.errors import CallersFileError
from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.yaml_files import reader
from skilder_keys.yaml_files.reader import Mapping, Scalar, Sequence, YamlFileError
from skilder_keys.yaml_files.scalars import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from skilder_keys.yaml_files.reader import Node


LOCAL_OPERATOR = "local-operator"
_MAX_FAULTS = 10
_MAX_CALLERS = 1000
_MAX_SAN = 500
_ROLES = ("operator", "auditor", "console", "service")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")

# Where a fault is, as the keys and indices that lead there, and what is wrong.
Place: TypeAlias = tuple[int | str, ...]
Fault: TypeAlias = tuple[Place, str]


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
    file: Any = _texts(path, document, document, ())
    if faults := list(islice(_file_faults(file), _MAX_FAULTS)):
        raise CallersFileError("; ".join(_message(path, document, *each) for each in faults))
    return [
        KnownCaller(
            Caller(each["name"], CallerRole(each["role"])),
            None if each.get("token_sha256") is None else bytes.fromhex(each["token_sha256"]),
            each.get("san"),
        )
        for each in file["callers"]
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
    return KnownCaller(Caller(LOCAL_OPERATOR, CallerRole.OPERATOR), hashlib.sha256(token.encode()).digest())


def _texts(path: Path, root: Node, node: Node, at: Place) -> object:
    """Return the contents of a node. All scalars must be texts, because YAML changes `on` or 0123 without quotes."""
    if isinstance(node, Mapping):
        return {key: _texts(path, root, value, (*at, key)) for key, value in node.items.items()}
    if isinstance(node, Sequence):
        return [_texts(path, root, item, (*at, index)) for index, item in enumerate(node.items)]
    if node.kind not in (Kind.TEXT, Kind.NOTHING):
        raise CallersFileError(_message(path, root, at, f"is {node.kind.value} in YAML, and not a text: quote it"))
    return node.text if node.kind is Kind.TEXT else None


def _file_faults(file: Any) -> Iterator[Fault]:  # noqa: ANN401 - of any shape
    """Yield what is wrong with the contents of a callers file."""
    if not isinstance(file, dict):
        yield (), "is not a mapping"
        return
    wrong = [*_callers_faults(file), *_unknown_fields(file, "callers")]
    yield from wrong or _clashes(file["callers"])


def _callers_faults(file: dict[str, Any]) -> Iterator[Fault]:
    callers = file.get("callers")
    if "callers" not in file:
        yield ("callers",), "is required"
    elif not isinstance(callers, list):
        yield ("callers",), "is not a list"
    elif len(callers) > _MAX_CALLERS:
        yield ("callers",), f"List should have at most {_MAX_CALLERS} items after validation, not {len(callers)}"
    else:
        for index, caller in enumerate(callers):
            yield from ((("callers", index, *at), fault) for at, fault in _caller_faults(caller))


def _caller_faults(caller: Any) -> Iterator[Fault]:  # noqa: ANN401 - of any shape
    if not isinstance(caller, dict):
        yield (), "is not a mapping"
        return
    wrong: list[Fault] = [((name,), fault) for name in _CHECKS if (fault := _field_fault(caller, name))]
    wrong += _unknown_fields(caller, *_CHECKS)
    yield from wrong
    if not wrong and caller.get("token_sha256") is None and caller.get("san") is None:
        yield (), "needs token_sha256, san or both"


def _field_fault(caller: dict[str, Any], name: str) -> str | None:
    if name not in caller:
        return "is required" if name in _REQUIRED else None
    value = caller[name]
    if value is None and name not in _REQUIRED:
        return None
    if not isinstance(value, str) and name != "role":
        return "is not a text"
    return _CHECKS[name](value)


def _name_fault(name: str) -> str | None:
    return None if _NAME.fullmatch(name) else "must be 1 to 64 letters, digits or ._-, a letter or digit first"


def _role_fault(role: object) -> str | None:
    *others, last = map(repr, _ROLES)
    return None if role in _ROLES else f"Input should be {', '.join(others)} or {last}"


def _digest_fault(digest: str) -> str | None:
    # Tools of Windows print the digits in upper case.
    fault = "is not a SHA-256: write the 64 hexadecimal digits that `sha256sum` prints"
    return None if _SHA256.fullmatch(digest) else fault


def _san_fault(san: str) -> str | None:
    if not san:
        return "String should have at least 1 character"
    return f"String should have at most {_MAX_SAN} characters" if len(san) > _MAX_SAN else None


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "name": _name_fault,
    "role": _role_fault,
    "token_sha256": _digest_fault,
    "san": _san_fault,
}
_REQUIRED = ("name", "role")


def _unknown_fields(found: dict[str, Any], *known: str) -> Iterator[Fault]:
    return (((name,), "there is no such field") for name in found if name not in known)


def _clashes(callers: list[dict[str, str | None]]) -> Iterator[Fault]:
    """Yield the first identity that two callers share, or that is reserved."""
    for field in ("name", "token_sha256", "san"):
        seen: dict[str, int] = {}
        for index, each in enumerate(callers):
            value = each.get(field)
            if (
                value is not None
                and (first := seen.setdefault(value.lower() if field == "token_sha256" else value, index)) != index
            ):
                yield (), f"two callers have the same {field}: callers[{first}] and callers[{index}]"
                return
    if any(each["name"] == LOCAL_OPERATOR for each in callers):
        yield (), f"the name {LOCAL_OPERATOR} is reserved for the operator token in the data folder"


def _message(path: Path, node: Node, at: Place, fault: str) -> str:
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
    return f"{path}:{line}: {': '.join([*names, fault])}"


def _name(node: Node) -> str:
    name = node.items.get("name") if isinstance(node, Mapping) else None
    return f" {name.text!r}" if isinstance(name, Scalar) and _NAME.fullmatch(name.text) else ""
