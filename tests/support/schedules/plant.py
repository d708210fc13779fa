"""Put a mistake into the code: a small change of one line, or of two."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

    import pytest

    from tests.support.schedules.schedule import Story

    Mistake = tuple[Story | None, tuple["Edit", ...]]
    """The story that shows it, or None if chance alone soon does; and the changes of the code."""


class Edit(NamedTuple):
    """A change of the code: a class or module, the right text, which one function there has once, and the wrong one."""

    of: type | ModuleType
    right: str
    wrong: str


def plant(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the code."""
    module = edit.of if inspect.ismodule(edit.of) else sys.modules[edit.of.__module__]
    functions = {name: each for name, each in vars(edit.of).items() if inspect.isfunction(each)}
    sources = {name: inspect.getsource(each) for name, each in functions.items() if each.__module__ == module.__name__}
    found = [name for name, source in sources.items() for _ in range(source.count(edit.right))]
    assert len(found) == 1, f"{edit.of.__name__} has {edit.right!r} in {found}, not once"
    (name,) = found
    wrong = textwrap.dedent(sources[name].replace(edit.right, edit.wrong))
    code = compile(wrong, f"<{name} with a mistake>", "exec", flags=__future__.annotations.compiler_flag)
    namespace: dict[str, Any] = {}
    exec(code, vars(module), namespace)  # noqa: S102 - the project's own code
    namespace[name].__qualname__ = functions[name].__qualname__  # by which a schedule knows what waits
    monkeypatch.setattr(edit.of, name, namespace[name])
