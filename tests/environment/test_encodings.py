"""Text that is not in UTF-8, and terminals that cannot show UTF-8."""

from __future__ import annotations

import codecs
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import by_form
from tests.support.service import TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.environment.conftest import Surroundings

HINTS = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINALS: list[dict[str, str]] = [HINTS, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}, {"LANG": "xx_XX"}]
FORMS = {
    "plain": b"%s",
    "line end": b"%s\n",
    "CRLF": b"%s\r\n",
    "blank lines": b"\n\r\n  %s  \n\n",
    "byte order mark": codecs.BOM_UTF8 + b"%s\r\n",
    "quotes": b'"%s"\n',
    "typographic quotes": "“%s”\n".encode(),
    "no-break space": "\u00a0%s\u00a0\n".encode(),
}


def forms(token: str) -> dict[str, bytes]:
    """Return a token in the forms in which editors, shells and people write it into files."""
    made = {name: form.replace(b"%s", token.encode()) for name, form in FORMS.items()}
    return made | {
        "UTF-16 LE": codecs.BOM_UTF16_LE + f"{token}\r\n".encode("utf-16-le"),
        "UTF-16 BE": codecs.BOM_UTF16_BE + f"{token}\r\n".encode("utf-16-be"),
    }


@pytest.mark.parametrize("form", forms(""))
async def test_a_token_is_read_in_every_form(surroundings: Surroundings, form: str) -> None:
    """From a file and from standard input."""
    file = surroundings.folder / "form.token"
    file.write_bytes(forms(TOKENS["operator"])[form])
    arguments = ("authorize", "--token-file", str(file))
    done = await surroundings.run(*arguments, stdin=forms(surroundings.token)[form])
    assert (done.returncode, done.stdout[:7], done.stderr) == (0, b"granted", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \r\n\n", "is empty"),
        (b'""\n', "is empty"),
        (b"one\ntwo\n", "has 2 lines"),
        (b"Bearer some-token\n", "character 7 is U+0020"),
        ("tokén".encode(), "character 4 is U+00E9"),
        (b"tok\xe9n", "is not text in UTF-8 or UTF-16"),
        (b"x" * 5000, "has 5000 characters"),
    ],
)
async def test_a_file_without_a_token_is_refused_with_a_reason(
    surroundings: Surroundings, content: bytes, message: str
) -> None:
    """Before anything is sent, and without showing the content of the file."""
    file = surroundings.folder / "bad.token"
    file.write_bytes(content)
    done = await surroundings.run("workspace", "list", "--token-file", str(file))
    assert (done.returncode, message in done.stderr.decode()) == (2, True), done
    assert b"some-token" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\n\n", b'""\n', b"\xff\xff\n"])
async def test_a_missing_token_is_no_decision(surroundings: Surroundings, content: bytes) -> None:
    """An unset variable is an error of the script, not of the key."""
    done = await surroundings.run("authorize", stdin=content)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input" in done.stderr


@pytest.mark.parametrize("variables", by_form(TERMINALS[:1], TERMINALS))
async def test_characters_that_a_terminal_cannot_show_are_escaped(
    surroundings: Surroundings, variables: dict[str, str]
) -> None:
    """Nothing fails, and JSON keeps its meaning."""
    encoding = variables.get("PYTHONIOENCODING", "ascii" if variables == HINTS else "utf-8")
    done = await surroundings.run("keys", "list", "-w", "acme", **variables)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    for key in surroundings.keys:
        assert key.description.encode(encoding, "backslashreplace").decode(encoding) in shown
    as_json = await surroundings.run("keys", "list", "-w", "acme", "--json", **variables)
    plain = await surroundings.run("keys", "list", "-w", "acme", "--json")
    assert json.loads(as_json.stdout) == json.loads(plain.stdout)


async def test_a_shown_workspace_applies_from_any_locale(surroundings: Surroundings, tmp_path: Path) -> None:
    """Characters that cannot be written are escaped as YAML does."""
    shown = (await surroundings.run("workspace", "show", "acme")).stdout.decode().replace("name: Acme", "name: 東京 Ü")
    applied = await surroundings.run("workspace", "apply", "-", stdin=shown)
    assert applied.returncode == 0, applied
    for variables in (HINTS, {"PYTHONIOENCODING": "latin-1"}):
        odd = await surroundings.run("workspace", "show", "acme", **variables)
        assert odd.returncode == 0
        (tmp_path / "odd.yaml").write_bytes(odd.stdout)
        again = await surroundings.run("workspace", "apply", str(tmp_path / "odd.yaml"))
        assert b"nothing differed" in again.stdout, again


@pytest.mark.skipif(
    shutil.which("localedef") is None,
    reason="localedef is needed, and was not found (Debian: apt-get install libc-bin)",
)
async def test_a_latin_1_locale_works(surroundings: Surroundings, tmp_path: Path) -> None:
    """A real one, with a Latin-1 argument."""
    made = await surroundings.shell(f"localedef -i en_US -f ISO-8859-1 {tmp_path}/en_US.ISO-8859-1")
    if not (tmp_path / "en_US.ISO-8859-1").exists():
        pytest.skip(f"localedef could not make a locale: {made.stderr.strip()} (Debian: apt-get install locales)")
    locale = {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"}
    issue, show = (
        "keys issue -w acme --all-hats $'K\\xf6ln' > out 2> err",
        "keys list -w acme | iconv -f latin1 -t utf-8",
    )
    done = await surroundings.shell(f"skilder-keys {issue} && skilder-keys {show}", **locale)
    assert "\tKöln\t" in done.stdout, done
    assert "\t\\u6771\\u4eac" in done.stdout
