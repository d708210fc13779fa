"""docs/operations.md has every text that an operator may see, as the code has it, and every alert."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from skilder_keys import config
from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.status import STATUS_CODES
from tests.docs.links import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = " ".join((ROOT / "docs" / "operations.md").read_text("utf-8").split())
CODE = Path(config.__file__).parent
RULES = ROOT / "deploy" / "prometheus" / "skilder-keys.rules.yml"
# The errors that may end a start. Errors of the embedded Postgres and of YAML appear inside one of these.
ERRORS = {
    "CallersFileError",
    "DataFolderError",
    "DataFolderTakenError",
    "DatabaseFaultError",
    "DatabaseUrlError",
    "EmbeddedPostgresError",
    "ListenError",
}
# Modules in which a ValueError is about an option or the callers file.
CHECKED = {"config.py", "callers_file.py"}
# Modules whose errors do not end a start, or end the Postgres keeper only.
ELSEWHERE = {"cli", "domain", "postgres_keeper.py"}


def calls() -> Iterator[tuple[Path, str, str]]:
    """Return the calls in our code with a text as first argument: file, function, and the text with … for values."""
    for path in sorted(CODE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                called = ast.unparse(node.func).rpartition(".")[2]
                yield path.relative_to(CODE), called, template(node.args[0])


def template(node: ast.expr) -> str:
    """Return a text as the page writes it."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case _:
            return "…"


def is_shown(text: str) -> bool:
    """Return whether the page has a text as code; `…` may replace the rest of a long one."""
    return any(f"`{shown}`" in PAGE for shown in (text, f"…: {text}"))


def has_words(text: str) -> bool:
    """Return whether a text has more than values."""
    return re.search(r"[a-z]{2}", text) is not None


def test_every_log_line_above_info_is_on_the_page() -> None:
    """By its message."""
    found = {text for _, called, text in calls() if called in {"warning", "error", "exception", "critical"}}
    found = {text for text in found if has_words(text)}
    assert len(found) > 15
    assert {text for text in found if not is_shown(text)} == set()


def test_every_error_of_a_start_is_on_the_page() -> None:
    """With … in place of values."""
    found = {
        text
        for path, called, text in calls()
        if (called in ERRORS or (called == "ValueError" and path.name in CHECKED))
        and ELSEWHERE.isdisjoint(path.parts)
        and has_words(text)
    }
    # There are two classes StartError: that of Postgres's keeper is left out above.
    found |= {text for path, called, text in calls() if called == "StartError" and path.name != "postgres_keeper.py"}
    assert len(found) > 30
    assert {text for text in found if not is_shown(text)} == set()


def test_every_reason_is_on_the_page() -> None:
    """Of failed calls and of denied tokens."""
    reasons = {error.reason for error in STATUS_CODES} | {each.name for each in DenialReason}
    assert KeysError.reason in reasons
    assert {reason for reason in reasons if f"`{reason}`" not in PAGE} == set()


def test_every_alert_is_about_a_metric_that_the_code_exports() -> None:
    """And the page names no alert that is gone."""
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == set(re.findall(r"\bSkilderKeys[A-Z]\w+", PAGE))
    code = "\n".join(path.read_text("utf-8") for path in CODE.rglob("*.py"))
    for name in set(re.findall(r"skilder_keys_(\w+)", RULES.read_text("utf-8"))):
        assert re.search(rf'"(skilder_keys_)?{re.sub("_(total|count|bucket)$", "", name)}"', code), name
