"""The README's table of options, made from the settings: `python -m tests.support.readme` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from skilder_keys.cli.options import variable
from skilder_keys.config import Settings

README = Path(__file__).parents[2] / "README.md"
_TABLE = re.compile(r"(<!-- options: .*? -->\n).*?(<!-- end of options -->)", re.DOTALL)


def with_options(text: str) -> str:
    """Return the README with an up-to-date table."""
    rows = ["| variable | flag | default | |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = name.replace("_", "-")
        negated = f", `--no-{flag}`" if isinstance(field.default, bool) else ""
        default = "" if field.default is None else f"`{field.default}`"
        if isinstance(field.default, bool):
            default = "on" if field.default else "off"
        rows.append(f"| `{variable(name)}` | `--{flag}`{negated} | {default} | {field.description} |")
    return _TABLE.sub(lambda match: match[1] + "\n".join(rows) + "\n" + match[2], text)


if __name__ == "__main__":
    README.write_text(with_options(README.read_text("utf-8")), "utf-8")
