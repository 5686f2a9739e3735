"""A Grafana dashboard made from the metric table: a row for each section, a panel for each metric.

What a metric is drawn as follows from its kind and its unit, which is the end of its name.
"""

from __future__ import annotations

from typing import Any

from trainer.metrics import COUNTER, HISTOGRAM, SECTIONS, Metric

UNITS = {
    "timestamp_seconds": "dateTimeFromNow",
    "seconds": "s",
    "bytes": "bytes",
    "ratio": "percentunit",
    "decibels": "dB",
}
"""Grafana's units by the end of a name (`_total` left out)."""
RATE_UNITS = {"bytes": "Bps", "seconds": "s"}
SOURCE = {"type": "prometheus", "uid": "${source}"}
WHERE = '{job=~"$job", run=~"$run"}'
WIDTH, HEIGHT = 8, 7
HEADLINES = (
    ("Progress", "navsynth_progress_ratio", "percentunit"),
    ("Time left", "navsynth_eta_seconds", "s"),
    ("PSNR", "navsynth_psnr_decibels", "dB"),
    ("Clips per second", "navsynth:clips:rate5m", "short"),
    ("Training share of time", 'navsynth:goodput:ratio_rate5m{cause="training"}', "percentunit"),
    ("Age of the checkpoint", "navsynth:checkpoint_age:seconds", "s"),
)
"""Large figures on top: title, query, unit."""


def unit_of(metric: Metric) -> str:
    """Grafana's unit of what is drawn of a metric."""
    name = metric.name.removesuffix("_total")
    end = next((end for end in UNITS if name.endswith(f"_{end}")), "")
    if metric.kind == COUNTER:
        return RATE_UNITS.get(end, "short")
    return UNITS.get(end, "short")


def queries(metric: Metric) -> list[tuple[str, str]]:
    """(PromQL, legend) of what is drawn of a metric."""
    run, labels = "{{run}}", " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    legend = f"{run} {labels}".strip()
    if metric.kind == COUNTER:
        return [(f"rate({metric.name}{WHERE}[$__rate_interval])", legend)]
    if metric.kind == HISTOGRAM:
        by = ", ".join(["le", "run", *metric.labels])
        inner = f"sum by ({by}) (rate({metric.name}_bucket{WHERE}[$__rate_interval]))"
        return [
            (f"histogram_quantile({quantile}, {inner})", f"{legend} p{100 * quantile:.0f}")
            for quantile in (0.5, 0.99)
        ]
    factor = " * 1000" if metric.name.endswith("_timestamp_seconds") else ""
    return [(f"{metric.name}{WHERE}{factor}", legend)]


def _targets(found: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"datasource": SOURCE, "expr": expr, "legendFormat": legend, "refId": chr(ord("A") + i)}
        for i, (expr, legend) in enumerate(found)
    ]


def panel(metric: Metric, *, number: int, x: int, y: int) -> dict[str, Any]:
    """One panel: a table of labels for `_info`, a figure for points in time, else a graph."""
    kind = "timeseries"
    if metric.name.endswith("_info"):
        kind = "table"
    elif metric.name.endswith("_timestamp_seconds"):
        kind = "stat"
    targets = _targets(queries(metric))
    if kind == "table":
        targets = [{**target, "format": "table", "instant": True} for target in targets]
    name = metric.name.removeprefix("navsynth_").removesuffix("_total").replace("_", " ")
    return {
        "id": number,
        "type": kind,
        "title": name.capitalize(),
        "description": f"{metric.help} ({metric.name})",
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit_of(metric)}, "overrides": []},
        "targets": targets,
    }


def headline(index: int) -> dict[str, Any]:
    """One of the large figures on top."""
    title, query, unit = HEADLINES[index]
    expr = query.replace("{", '{job=~"$job", run=~"$run", ') if "{" in query else f"{query}{WHERE}"
    return {
        "id": index + 1,
        "type": "stat",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": 4 * index, "y": 0, "w": 4, "h": 4},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": _targets([(expr, "{{run}}")]),
    }


def dashboard() -> dict[str, Any]:
    """The dashboard, ready for Grafana's import."""
    panels = [headline(index) for index in range(len(HEADLINES))]
    y, number = 4, len(panels) + 1
    for title, section in SECTIONS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": number, "type": "row", "title": title, "gridPos": place, "panels": []})
        y, number = y + 1, number + 1
        for index, metric in enumerate(section):
            row, column = divmod(index, 24 // WIDTH)
            panels.append(panel(metric, number=number, x=WIDTH * column, y=y + HEIGHT * row))
            number += 1
        y += HEIGHT * -(-len(section) // (24 // WIDTH))
    return {
        "uid": "navsynth",
        "title": "navsynth",
        "tags": ["navsynth"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _variable("job"), _variable("run")]},
        "panels": panels,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values(navsynth_step, {label})",
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
