"""Put a mistake into the code: a small change of one line, or of two."""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pytest

    from tests.support.schedules.schedule import Story

    Mistake = tuple[Story | None, tuple["Edit", ...]]
    """The story that shows it, or None if chance alone soon does; and the changes of the code."""


class Edit(NamedTuple):
    """A change of the code: the class, the right text, which only one of its methods has once, and the wrong one."""

    of: type
    right: str
    wrong: str


def plant(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the code."""
    sources = {name: inspect.getsource(each) for name, each in vars(edit.of).items() if inspect.isfunction(each)}
    found = [name for name, source in sources.items() for _ in range(source.count(edit.right))]
    assert len(found) == 1, f"{edit.of.__name__} has {edit.right!r} in {found}, not once"
    (name,) = found
    wrong = textwrap.dedent(sources[name].replace(edit.right, edit.wrong))
    code = compile(wrong, f"<{name} with a mistake>", "exec", flags=__future__.annotations.compiler_flag)
    namespace: dict[str, object] = {}
    exec(code, vars(sys.modules[edit.of.__module__]), namespace)  # noqa: S102 - the project's own code
    monkeypatch.setattr(edit.of, name, namespace[name])
