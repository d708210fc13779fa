"""Command-line options that are made from `config.Settings`, so that each option is defined only once."""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import TYPE_CHECKING, Any

import typer
from pydantic import SecretStr, ValidationError

from skilder_keys.cli.arguments import check_text, flags_of
from skilder_keys.cli.variables import variable
from skilder_keys.config import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

# The names of settings in a sentence: at its beginning before a colon, or anywhere if they have an underscore.
_LONG = [name for name in Settings.model_fields if "_" in name]
_NAMES = re.compile(rf"^(?:{'|'.join(Settings.model_fields)})(?=: )|\b(?:{'|'.join(_LONG)})\b")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function of Settings: each setting, or each of `names`, is an option and a variable.

    What else the function takes are arguments and options as for any command.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = _own_parameters(function)
        flags = flags_of({each.name: each for each in own})

        def command(**values: Any) -> None:  # noqa: ANN401 - of as many types as there are settings
            given = {each.name: values.pop(each.name) for each in own}
            check_text(given, flags)
            function(_settings(values), **given)

        parameters = [*own, *(_parameter(name) for name in names or Settings.model_fields)]
        # Typer reads the options from a function's signature, so make one from the settings.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def _own_parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of a command but for its settings, which come first."""
    found = list(inspect.signature(function).parameters.values())[1:]
    types_ = typing.get_type_hints(function, include_extras=True) if found else {}
    return [each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=types_[each.name]) for each in found]


def _parameter(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    flag = name.replace("_", "-")
    kind = _plain_type(field.annotation)
    option = typer.Option(
        field.default,
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        envvar=variable(name),
        help=field.description,
        show_default=field.default is not None,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _plain_type(annotation: Any) -> Any:  # noqa: ANN401 - a type, or a form of one
    """Return the type that Typer parses: without None, and str for secrets and choices, which are checked later."""
    if isinstance(annotation, types.UnionType):
        annotation = next(each for each in annotation.__args__ if each is not types.NoneType)
    if annotation is SecretStr or typing.get_origin(annotation) is typing.Literal:
        return str
    return annotation


def _settings(values: dict[str, Any]) -> Settings:
    try:
        return Settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        faults = []
        for each in error.errors(include_input=False, include_url=False):
            at = f"{_flag(str(each['loc'][0]))}: " if each["loc"] else ""
            faults.append(at + _NAMES.sub(lambda match: _flag(match[0]), each["msg"].removeprefix("Value error, ")))
        raise typer.BadParameter("; ".join(faults)) from None
