"""The dashboard and the alerts on what a real Prometheus scrapes from a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import pytest
import yaml

from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest
from tests.docs.links import ROOT
from tests.support.process import serving_process
from tests.support.prometheus import NEEDS_PROMETHEUS, scraping
from tests.support.service import Client
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workers import issued, operator_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.prometheus import Prometheus

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = GRAFANA / "skilder-keys.json"
CHECK = ROOT / "build" / "bin" / "check-dashboard"


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something, each with the title of its row as `row`."""
    found, row = [], ""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            found.append({**panel, "row": row})
    return found


def expressions(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a panel, as Grafana sends them for all servers."""
    return [each["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m") for each in panel["targets"]]


@pytest.mark.skipif(not CHECK.exists(), reason="check-dashboard is not here: run `make tools`, which needs Go")
def test_the_dashboard_is_what_grafana_expects() -> None:
    """By the schemas of dashboards, panels and queries: no field is missing, and none is unknown."""
    done = subprocess.run([CHECK, DASHBOARD], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_dashboard_and_its_provisioning_belong_together() -> None:
    """Each panel has a place, a description and the chosen data source; the ids are unique."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "instance"}
    places: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert {each["datasource"]["uid"] for each in panel["targets"]} == {"${datasource}"}
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert places.isdisjoint(cells), panel["title"]
        places |= cells
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/skilder-keys.yml").read_text("utf-8"))["providers"]
    assert provider["type"] == "file"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/skilder-keys.yml").read_text("utf-8"))[
        "datasources"
    ]
    assert source["type"] == "prometheus"


@NEEDS_PROMETHEUS
@GRPCIO_IF_SHORT
async def test_every_panel_shows_something_and_no_alert_fires(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """After a few calls. Each query and each rule works, and a server that is well fires nothing."""
    variables = {"SKILDER_KEYS_DATABASE_URL": database_url, "SKILDER_KEYS_METRICS_LISTEN": "127.0.0.1:0"}
    with serving_process(tmp_path, transport=transport, **variables) as server:
        async with AsyncExitStack() as stack:
            channel = grpc.aio.insecure_channel(await asyncio.to_thread(lambda: server.address))
            await stack.enter_async_context(channel)
            metadata = operator_metadata(server, tmp_path)
            prometheus = stack.enter_context(scraping(server.events("serving")[0]["metrics"], tmp_path))
            token = (await issued(channel, metadata)).token
            calls = asyncio.create_task(call(Client(channel), metadata, token))
            # A rate needs some values, and a call between two of them.
            sum_of_calls = (
                'sum(skilder_keys_calls_total{method="AuthorizationService/Authorize", code="UNAUTHENTICATED"})'
            )
            await asyncio.to_thread(prometheus.until, f"changes(({sum_of_calls})[1m:500ms]) >= 2")
            await asyncio.to_thread(look, prometheus, transport)
            calls.cancel()


async def call(client: Client, metadata: Any, token: str) -> NoReturn:
    """Cause calls of each kind that panels show: granted, denied and failed."""
    authorize = client.authorization.Authorize
    while True:
        await authorize(AuthorizeRequest(token=token), metadata=metadata)
        await authorize(AuthorizeRequest(token="no token"), metadata=metadata)
        with suppress(grpc.aio.AioRpcError):
            await authorize(AuthorizeRequest(token=token))
        await asyncio.sleep(0.02)


def look(prometheus: Prometheus, transport: str) -> None:
    """Query what the panels query, and look at the rules."""
    empty = {
        panel["title"]
        for panel in panels()
        for expression in expressions(panel)
        if not prometheus.query(expression) and (transport == "envoy" or not panel["row"].startswith("Envoy"))
    }
    assert empty == set()
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} == set()
