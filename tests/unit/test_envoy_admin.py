"""Responses of Envoy's admin interface that a real Envoy does not give on demand."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from skilder_keys.transports.envoy.admin import Admin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def console(path: Path, status: str, body: str) -> AsyncIterator[Admin]:
    """An admin interface that always sends this response."""

    async def response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(response, path):
        yield Admin(path)


async def test_metrics_are_read(tmp_path: Path) -> None:
    """In Prometheus's text format. Envoy's histograms are left out, and the others get a help text."""
    text = (
        "# TYPE envoy_calls gauge\nenvoy_calls{} 3\n"
        '# TYPE envoy_time histogram\nenvoy_time_bucket{le="+Inf"} 1\nenvoy_time_count 1\nenvoy_time_sum 7\n'
    )
    async with console(tmp_path / "admin", "200 OK", text) as admin:
        (found,) = await admin.metrics()
    assert [(each.name, each.value) for each in found.samples] == [("envoy_calls", 3.0)]
    assert "Envoy" in found.documentation


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200 OK", "envoy_calls{ 3"),
        ("200 OK", "envoy_calls three\n"),
        ("200 OK", ""),
        ("503 Service Unavailable", "envoy_calls 3\n"),
    ],
)
async def test_unreadable_metrics_are_left_out_without_an_error(tmp_path: Path, status: str, body: str) -> None:
    """A worker that cannot report a metric keeps serving."""
    async with console(tmp_path / "admin", status, body) as admin:
        assert await admin.metrics() == []


async def test_a_missing_admin_interface_gives_no_metric_and_no_error(tmp_path: Path) -> None:
    """As while Envoy starts or stops."""
    assert await Admin(tmp_path / "admin").metrics() == []
