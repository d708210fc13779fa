"""The files in deploy/, checked by the programs that use them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.links import anchors
from tests.support.lengths import by_form
from tests.support.promtool import NEEDS_PROMTOOL, promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "skilder-keys.rules.yml"
RULES_TEST = RULES.with_name("skilder-keys.rules.test.yml")


def read(path: Path) -> Any:
    """Return what is in a YAML file."""
    return yaml.safe_load(path.read_text("utf-8"))


def alerts() -> list[dict[str, Any]]:
    """Return the rules of all alerts."""
    return [rule for group in read(RULES)["groups"] for rule in group["rules"]]


def run(folder: Path, *command: str) -> None:
    """Run a command, which must find nothing wrong."""
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@NEEDS_PROMTOOL
def test_the_alerts_are_good_rules_and_fire_when_they_should(tmp_path: Path) -> None:
    """Each one for its problem, and none for a healthy service, which comes first. The short form tries some."""
    promtool("check", "rules", RULES.name, folder=RULES.parent)
    content = read(RULES_TEST)
    content["tests"] = content["tests"][:: by_form(5, 1)]
    shutil.copy(RULES, tmp_path)
    (tmp_path / RULES_TEST.name).write_text(yaml.safe_dump(content), "utf-8")
    promtool("test", "rules", RULES_TEST.name, folder=tmp_path)


def test_each_alert_has_a_test_in_which_it_fires_and_does_not_fire_before() -> None:
    """In a test of its own, with its labels and annotations."""
    tests = {each["name"]: each.get("alert_rule_test", []) for each in read(RULES_TEST)["tests"]}
    for rule in alerts():
        name = rule["alert"]
        assert [each["alertname"] for each in tests.get(name, [])] == [name, name]
        before, firing = tests[name]
        assert before["exp_alerts"] == []
        (fires,) = firing["exp_alerts"]
        assert fires["exp_labels"]["severity"] == rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert fires["exp_annotations"].keys() == rule["annotations"].keys() == {"summary", "runbook_url"}


def test_each_alert_has_a_section_in_the_runbook_with_something_to_do() -> None:
    """Its `runbook_url` leads there, and the page has no section of an alert that is gone."""
    page = (DEPLOY.parent / "docs" / "operations.md").read_text("utf-8")
    sections = dict(re.findall(r"^#### (SkilderKeys\w+)\n(.*?)(?=^#)", page, re.DOTALL | re.MULTILINE))
    assert sections.keys() == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == rule["alert"].lower()
        assert anchor in anchors(DEPLOY.parent / path)
        assert re.search(r"^1\. ", sections[rule["alert"]], re.MULTILINE), rule["alert"]


@NEEDS_PROMTOOL
def test_the_queries_of_the_runbook_can_be_parsed(tmp_path: Path) -> None:
    """By Prometheus; `test_runbook` runs those in SQL."""
    page = (DEPLOY.parent / "docs" / "operations.md").read_text("utf-8")
    queries = re.findall(r"^ *```promql\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    assert len(queries) > 2
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", "queries.yml", folder=tmp_path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here (Debian: apt-get install systemd)")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With a command that exists, since systemd checks that."""
    (tmp_path / "skilder-keys").write_text("#!/bin/sh\n")
    (tmp_path / "skilder-keys").chmod(0o755)
    unit = (DEPLOY / "skilder-keys.service").read_text("utf-8").replace("/opt/skilder-keys/bin", str(tmp_path))
    (tmp_path / "skilder-keys.service").write_text(unit)
    run(tmp_path, "systemd-analyze", "verify", "./skilder-keys.service")
