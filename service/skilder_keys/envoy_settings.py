"""The options that Envoy's configuration needs.

They are not in `config`, because a process that becomes Envoy needs only these, and pydantic takes long to load.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


# Without slots, so that the class has the defaults, which `config` takes from here.
@dataclass(frozen=True, kw_only=True)
class EnvoySettings:
    """Some options of `config.Settings`, as they are in JSON: the paths of files are texts."""

    listen: str
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    http_json: bool = False
    pool_size: int = 10
    max_message_bytes: int = 16 * 2**20
    max_connections: int = 10_000
    max_connection_age: float = 60.0
    drain_timeout: float = 10.0
    log_format: Literal["auto", "json", "console"] = "auto"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Return these options from the settings that a parent has validated and sent."""
        return cls(**{each.name: settings[each.name] for each in fields(cls) if each.name in settings})
