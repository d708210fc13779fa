"""The table of options, from the settings."""

from __future__ import annotations

from skilder_keys.cli.variables import variable
from skilder_keys.config import Settings


def table() -> str:
    """Return the table: each setting with its variable, flag, default and description."""
    rows = ["| variable | flag | default | |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = name.replace("_", "-")
        negated = f", `--no-{flag}`" if isinstance(field.default, bool) else ""
        default = "" if field.default is None else f"`{field.default}`"
        if isinstance(field.default, bool):
            default = "on" if field.default else "off"
        rows.append(f"| `{variable(name)}` | `--{flag}`{negated} | {default} | {field.description} |")
    return "\n".join(rows)
