"""The README of the client for TypeScript, as a reader follows it with the package that `npm pack` makes."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import LONG
from tests.support.process import run_command, serving_process
from tests.support.typescript_client import NODE_MODULES, TYPESCRIPT_CLIENT
from tests.support.walk import reader_variables, shell, steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

README = (TYPESCRIPT_CLIENT.sources / "README.md").read_text("utf-8")
# What installs packages needs a network, so it is not run. All else is.
INSTALL, _, WALK = steps(README)
PROGRAMS = dict(re.findall(r"<!-- (\S+\.ts) -->\n```ts\n(.*?)```", README, re.DOTALL))
# What Express and Fastify listen on in the README. A server of a test takes a free port, and prints which.
LISTENING = {
    "guards.ts": (
        'app.listen(3000, "127.0.0.1");',
        'const server = app.listen(0, "127.0.0.1", () => console.log(JSON.stringify(server.address())));',
    ),
    "fastify.ts": (
        'await app.listen({ port: 3001, host: "127.0.0.1" });',
        'await app.listen({ port: 0, host: "127.0.0.1" }); console.log(JSON.stringify(app.server.address()));',
    ),
}


def test_the_readme_has_the_tested_versions() -> None:
    """As the lock file pins them."""
    packages = json.loads((TYPESCRIPT_CLIENT.sources / "package-lock.json").read_text("utf-8"))["packages"]
    names = {"@connectrpc/connect-node", "@bufbuild/protobuf", "express", "fastify"}
    table = README.split("| tested with |", 1)[1].split("\n\n", 1)[0]
    shown = {name.lower(): version for name, version in re.findall(r"^\| (\S+) \| ([\d.]+) \|$", table, re.MULTILINE)}
    node = packages["node_modules/@types/node"]["version"].partition(".")[0]
    assert shown == {name: packages[f"node_modules/{name}"]["version"] for name in names} | {"node.js": node}


def test_the_readme_names_the_package() -> None:
    """It has its name and version in the command that installs it."""
    package = json.loads((TYPESCRIPT_CLIENT.sources / "package.json").read_text("utf-8"))
    name = f"{package['name'].lstrip('@').replace('/', '-')}-{package['version']}.tgz"
    assert INSTALL.mark == "install"
    assert f'npm install "$KEYS/{name}"' in README


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a reader's program, in which the package is installed, from the file that `npm pack` makes."""
    TYPESCRIPT_CLIENT.check()
    sources = shutil.copytree(
        TYPESCRIPT_CLIENT.sources, tmp_path / "sources", ignore=shutil.ignore_patterns("node_modules", "out", "dist")
    )
    (sources / "node_modules").symlink_to(NODE_MODULES)
    pack = ["npm", "pack", "--silent"]
    subprocess.run(pack, cwd=sources, check=True, capture_output=True)
    program = tmp_path / "program"
    modules = program / "node_modules"
    (modules / "@skilder").mkdir(parents=True)
    for each in NODE_MODULES.iterdir():
        (modules / each.name).symlink_to(each)
    (packed,) = sources.glob("*.tgz")
    with tarfile.open(packed) as archive:
        archive.extractall(modules / "@skilder", filter="data")
    (modules / "@skilder" / "package").rename(modules / "@skilder" / "keys-client")
    (program / "package.json").write_text('{"type": "module"}')
    return program


@contextmanager
def _listening(folder: Path, name: str, variables: Mapping[str, str]) -> Iterator[int]:
    """Run a server, and return its port."""
    command = ["node", name.replace(".ts", ".js")]
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


def _post(port: int, path: str, token: str | None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


@pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")
@pytest.mark.usefixtures("with_postgres_files")
def test_the_readme(tmp_path: Path, folder: Path) -> None:
    """A reader takes the walk, and guards routes of Express and Fastify."""
    assert PROGRAMS.keys() == {"walk.ts", *LISTENING}
    with serving_process(tmp_path) as server:
        variables = reader_variables(server.address)
        shutil.copy(tmp_path / "data" / "operator-token", folder)
        for name, program in PROGRAMS.items():
            before, after = LISTENING.get(name, ("", ""))
            assert before in program
            text = program.replace(before, after) if before else program
            (folder / name).write_text(text.replace("127.0.0.1:50051", server.address), "utf-8")
        with shell(folder, variables) as session:
            session.take(WALK)
            output, code = session.run(WALK.commands.partition("\n")[0].replace("walk.ts", " ".join(LISTENING)))
            assert code == 0, output
        issue = ("keys", "issue", "--workspace", "acme", "--hat", "support", "--expires-in", "1h", "guarded")
        token = run_command(*issue, folder=tmp_path, SKILDER_KEYS_LISTEN=server.address).stdout.strip()
        for name in LISTENING:
            with _listening(folder, name, variables) as port:
                assert _post(port, "/slack/post", None)[0] == 401
                assert _post(port, "/slack/post", "not-a-token")[0] == 401
                assert _post(port, "/slack/post", token) == (200, '{"workspace":"acme"}')
                if name == "guards.ts":
                    assert _post(port, "/slack/tools/post", token) == (200, '{"tool":"slack.post"}')
                    assert _post(port, "/slack/tools/push", token)[0] == 403
