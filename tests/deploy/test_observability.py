"""Alerts, Grafana dashboard and Compose profile: valid by promtool, and based on metrics that a sidecar exports."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sidegate.admin.runbook import runbook_html

from tests.raw_client import get
from tests.recorder import Recorder
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROMTOOL = shutil.which("promtool")

_NAME = re.compile(r"\b(?:sidegate|process)_[a-z_]+")


@pytest.fixture(scope="module")
def metrics(shared_store_server: StoreServer) -> frozenset[str]:
    """Every name in a sidecar's exposition, with those of its samples."""
    recorder = Recorder()
    try:
        with Sidecar(configuration(shared_store_server.url, recorder.url)) as sidecar:
            for _ in range(3):
                get(sidecar.port, "/tight/x")
            page = urllib.request.urlopen(f"http://127.0.0.1:{sidecar.admin_port}/metrics", timeout=10).read().decode()
    finally:
        recorder.stop()
    names = set()
    for family in text_string_to_metric_families(page):
        names |= {family.name, *(sample.name for sample in family.samples)}
        if family.type == "counter":
            names.add(f"{family.name}_total")  # also of those that have counted nothing yet
    return frozenset(names)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_uses_metrics_that_a_sidecar_exports(rule: dict[str, Any], metrics: frozenset[str]) -> None:
    names = set(_NAME.findall(rule["expr"]))
    assert names or rule["expr"].startswith("up{")
    assert names <= metrics


@pytest.mark.slow
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_uses_metrics_that_a_sidecar_exports(panel: dict[str, Any], metrics: frozenset[str]) -> None:
    for target in panel["targets"]:
        names = set(_NAME.findall(target["expr"]))
        assert names
        assert names <= metrics


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_severity_and_a_row_in_the_docs(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert f"| `{rule['alert']}` |" in (ROOT / "docs" / "operations.md").read_text("utf-8")


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
@pytest.mark.slow
def test_promtool_accepts_configuration_and_rules() -> None:
    done = subprocess.run(
        [str(PROMTOOL), "check", "config", str(DEPLOY / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
@pytest.mark.slow
def test_alerts_fire_and_stay_silent_as_the_stories_say() -> None:
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(Path(__file__).with_name("alerts.test.yml"))],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
@pytest.mark.slow
def test_every_expression_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in PANELS for target in panel["targets"]]
    filled = [
        re.sub(r"\$(?:instance|job|policy)\b", ".*", each.replace("$__rate_interval", "1m")) for each in expressions
    ]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(filled)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    fields = [
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(fields)) == len(fields)
    assert max(x for x, _ in fields) < 24


def test_the_compose_profile_mounts_existing_files_and_scrapes_all_sidecars() -> None:
    services = COMPOSE["services"]
    observed = {name: each for name, each in services.items() if each.get("profiles") == ["observability"]}
    assert set(observed) == {"prometheus", "grafana"}
    for each in observed.values():
        for volume in each["volumes"]:
            source, _, options = volume.partition(":")
            assert (ROOT / source).exists()
            assert options.endswith(":ro")
        assert all(port.startswith("127.0.0.1:") for port in each["ports"])
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (targets,) = job["static_configs"]
    assert targets["targets"] == [f"{name}:9901" for name in services if name.startswith("proxy")]


STORIES = [
    case
    for story in yaml.safe_load(Path(__file__).with_name("alerts.test.yml").read_text("utf-8"))["tests"]
    for case in story["alert_rule_test"]
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_firing_and_not_firing(rule: dict[str, Any]) -> None:
    fires = {bool(case.get("exp_alerts")) for case in STORIES if case["alertname"] == rule["alert"]}
    # A story with firing labels of one application alone shows that the other application does not fire.
    several = any(case.get("exp_alerts") for case in STORIES if case["alertname"] == rule["alert"])
    assert fires == {True, False} or (several and rule["alert"] in ("SidegateRefusesMost", "SidegateLimitsNothing"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_names_a_section_of_the_runbook_and_keeps_applications_apart(rule: dict[str, Any]) -> None:
    anchors = set(re.findall(r'id="([^"]+)"', runbook_html()))
    (section,) = re.findall(r"/runbook#([a-z0-9-]+)", rule["annotations"]["runbook_url"])
    assert section in anchors
    aggregated = re.findall(r"\b(?:by) \(([^)]*)\)", rule["expr"])
    assert all("job" in labels.split(", ") for labels in aggregated)
    assert "sum(" not in rule["expr"]


def test_the_dashboard_chooses_data_source_application_sidecar_and_policy() -> None:
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance", "policy"]
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["noValue"] == "no data"
        for each in (panel, *panel["targets"]):
            assert each["datasource"]["uid"] == "${datasource}"
        assert all('job=~"$job"' in target["expr"] for target in panel["targets"])
