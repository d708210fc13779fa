"""The arguments of a command: what people write for each, and whether they are text."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from typer.models import ArgumentInfo, OptionInfo

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.text import UNREADABLE

if TYPE_CHECKING:
    import inspect
    from collections.abc import Mapping


def flags_of(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Return each parameter of a command in the form that people write: its long flag, or its name in the usage."""
    flags = {}
    for name, parameter in parameters.items():
        for info in get_args(parameter.annotation):
            if isinstance(info, OptionInfo):
                long = [each for each in info.param_decls or () if each.startswith("--")]
                flags[name] = long[0] if long else f"--{name.strip('_').replace('_', '-')}"
            elif isinstance(info, ArgumentInfo):
                flags[name] = str(info.metavar or name)
    return flags


def check_text(values: Mapping[str, object], flags: Mapping[str, str]) -> None:
    """End the command if an argument is not text. Python reads bytes that the locale cannot decode as surrogates."""
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and UNREADABLE.search(each):
                raise fail(f"{flags.get(name, name)} is not text in this terminal's encoding: {each!a}", Exit.USAGE)
