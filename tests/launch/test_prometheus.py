"""The files for Prometheus and Grafana: they load, agree with the metric table, and every alert
fires on its fault."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from launch.prometheus.__main__ import main
from trainer.metrics import METRICS, series

ROOT = Path(__file__).resolve().parents[2] / "launch" / "prometheus"
KNOWN = {name for metric in METRICS for name in series(metric)}
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]


def names_in(text: str) -> set[str]:
    """Metrics and recorded series that a query names."""
    return set(re.findall(r"navsynth[a-z0-9_:]*[_:][a-z0-9_:]+", text))


def promtool(*arguments: str, cwd: Path) -> str:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    run = subprocess.run(
        [tool, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prometheus")
    assert main(["write", str(folder)]) == 0
    return folder


def test_prometheus_takes_the_files(written: Path) -> None:
    """The scrape config and the rules that `write` leaves are valid."""
    promtool("check", "config", "prometheus.yml", cwd=written)


def test_every_alert_fires_and_resolves(written: Path) -> None:
    """promtool replays each fault: nothing before it, the alert during it, nothing after."""
    promtool("test", "rules", "rules_test.yml", cwd=written)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_replayed_fault(alert: str) -> None:
    """Every alert has cases with and without a fault, and says what to do."""
    tests = yaml.safe_load((ROOT / "rules_test.yml").read_text())["tests"]
    cases = [c for t in tests for c in t.get("alert_rule_test", []) if c["alertname"] == alert]
    assert [c for c in cases if c.get("exp_alerts")]
    assert len([c for c in cases if not c.get("exp_alerts")]) >= 2
    rule = next(rule for rule in RULES if rule.get("alert") == alert)
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description"} <= rule["annotations"].keys()


def test_rules_and_dashboard_name_documented_metrics(written: Path) -> None:
    """Queries know no metric that the table does not; the dashboard shows every one of it."""
    queries = [rule["expr"] for rule in RULES]
    panels = json.loads((written / "dashboard.json").read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    named = set().union(*map(names_in, [*queries, *drawn]))
    assert named <= KNOWN | RECORDED
    shown = set().union(*map(names_in, drawn))
    assert not [m.name for m in METRICS if not shown & set(series(m))]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(taken)) == len(taken)


def test_the_dashboards_queries_are_promql(written: Path, tmp_path: Path) -> None:
    """Prometheus parses every query of the dashboard."""
    panels = json.loads((written / "dashboard.json").read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    plain = [expr.replace("$__rate_interval", "5m") for expr in drawn]
    rules = [{"record": f"drawn:{i}", "expr": expr} for i, expr in enumerate(plain)]
    text = yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})
    (tmp_path / "dashboard.yml").write_text(text)
    assert f"{len(rules)} rules found" in promtool("check", "rules", "dashboard.yml", cwd=tmp_path)


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Bad input gives one line and code 2."""
    (tmp_path / "file").write_text("")
    assert main(["write", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
