"""Command-line options that are made from `config.Settings`, so that each option is defined only once."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_origin

import typer

from skilder_keys.cli.variables import variable
from skilder_keys.config import Secret, Settings, SettingsError, setting_kinds

if TYPE_CHECKING:
    from collections.abc import Callable

# The names of settings in a sentence: at its beginning before a colon, or anywhere if they have an underscore.
_FIELDS = {each.name: each for each in fields(Settings)}
_LONG = [name for name in _FIELDS if "_" in name]
_NAMES = re.compile(rf"^(?:{'|'.join(_FIELDS)})(?=: )|\b(?:{'|'.join(_LONG)})\b")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def takes_settings(*names: str) -> Callable[[Callable[[Settings], None]], Callable[..., None]]:
    """Make a command of a function of Settings: each setting, or each of `names`, is an option and a variable."""

    def decorate(function: Callable[[Settings], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:  # noqa: ANN401 - of as many types as there are settings
            function(_settings(values))

        parameters = [_parameter(name) for name in names or _FIELDS]
        # Typer reads the options from a function's signature, so make one from the settings.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    field = _FIELDS[name]
    flag = name.replace("_", "-")
    kind = setting_kinds()[name]
    if kind is Secret or get_origin(kind) is Literal:
        kind = str  # Settings checks it
    option = typer.Option(
        field.default,
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        envvar=variable(name),
        help=field.metadata["description"],
        show_default=field.default is not None,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _settings(values: dict[str, Any]) -> Settings:
    try:
        return Settings.parse({name: value for name, value in values.items() if value is not None})
    except SettingsError as error:
        faults = [_NAMES.sub(lambda match: _flag(match[0]), each) for each in error.faults]
        raise typer.BadParameter("; ".join(faults)) from None
