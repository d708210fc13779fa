"""The commands of `skilder-keys`. Each is loaded when it is used, because loading all of them takes half a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

# Where each command is, or the group of commands, in the order of the help.
_COMMANDS = {
    "serve": "skilder_keys.cli.serve:serve",
    "migrate": "skilder_keys.cli.serve:migrate",
    "authorize": "skilder_keys.cli.authorize:authorize",
    "keys": "skilder_keys.cli.keys:app",
    "workspace": "skilder_keys.cli.workspace:app",
    "activity": "skilder_keys.cli.activity:app",
    "usage": "skilder_keys.cli.usage:usage",
    "report": "skilder_keys.cli.report.command:report",
    "top": "skilder_keys.cli.top.command:top",
    "audit": "skilder_keys.cli.audit:app",
    "scan": "skilder_keys.cli.scan.command:scan",
    "runtime-agent": "skilder_keys.cli.runtime_agent.command:runtime_agent",
}


class Commands(TyperGroup):
    """The group of all commands, as Typer's `cls`."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - as Typer has it
        super().__init__(**{**attributes, "commands": _Lazy()})


class _Lazy(Mapping[str, Any]):
    """The commands by their names, each loaded when it is looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - Typer keeps the class of a command to itself
        if name not in self._loaded:
            self._loaded[name] = _load(name, _COMMANDS[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


def _load(name: str, place: str) -> Any:  # noqa: ANN401 - as above
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    app = typer.Typer(rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name)
    else:
        app.command(name)(found)
    return get_group(app).commands[name]
