"""Rules and dashboard speak of metrics that servers have; alerts fire when they should, by promtool's own tests."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from deploy.tools import DEPLOY, ROOT, passes, tool

from gradwire.server.observe.collector import METRICS

RULES = DEPLOY / "prometheus/rules.yaml"
DASHBOARD = DEPLOY / "grafana/dashboards/gradwire.json"
WHERE = "it is in Debian's package prometheus"
LABELS = {metric.name: set(metric.labels) for metric in METRICS}


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    return found


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def expressions() -> dict[str, str]:
    ours = {rule.get("alert", rule.get("record")): rule["expr"] for rule in rules()}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return ours | {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]}


@pytest.mark.parametrize("name", sorted(expressions()))
def test_it_speaks_of_metrics_and_labels_that_there_are(name: str) -> None:
    expression = expressions()[name]
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for found in re.findall(r"\bgradwire[\w:]+", re.sub(r'"[^"]*"', "", expression)):
        base = re.sub(r"_(bucket|sum|count)$", "", found)
        assert found in recorded or found in LABELS or base in LABELS, found
    known = set().union(*LABELS.values()) | {"job", "instance", "le"}
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(labels.replace(" ", "").split(",")) <= known
    for metric, selected in re.findall(r"\b(gradwire_\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\}", expression):
        asked = set(re.findall(r"(\w+)=~?", selected))
        assert asked <= LABELS.get(metric, known) | {"job", "instance", "le"}, metric


def test_promtool_takes_the_rules() -> None:
    passes(tool("promtool", WHERE), "check", "rules", str(RULES))


def test_promtool_takes_the_configuration() -> None:
    passes(tool("promtool", WHERE), "check", "config", "--syntax-only", str(DEPLOY / "prometheus/prometheus.yaml"))


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    passes(tool("promtool", WHERE), "test", "rules", str(DEPLOY / "prometheus/alerts_test.yaml"))


def test_every_alert_has_such_a_test_and_an_entry_in_the_runbook() -> None:
    tested = {
        alert["alertname"]
        for test in yaml.safe_load((DEPLOY / "prometheus/alerts_test.yaml").read_text())["tests"]
        for alert in test["alert_rule_test"]
    }
    headings = re.findall(r"(?m)^#+ (\w+)$", (ROOT / "docs/deploy.md").read_text())
    assert tested == set(alerts())
    assert set(alerts()) <= set(headings)
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"]["runbook_url"] == f"docs/deploy.md#{rule['alert'].lower()}"
