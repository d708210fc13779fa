"""The names of what is compared."""

from __future__ import annotations

ENVOY, GRPCIO, EMPTY_GRPCIO, EMPTY_ASGI = "envoy", "grpcio", "empty grpcio", "empty ASGI"
"""The columns of tables: our transports, and for each of them an empty method."""
NAIVE = "FastAPI, asyncpg"
"""The column of an application as many would write it first."""
NOTHING = "—"
"""What a cell has where there is no value."""
