"""A real Prometheus with the shipped files, for whom time flies."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from launch.prometheus.__main__ import write

SPEED = 120
"""How many times faster the shipped rules' time goes: 10 minutes take 5 seconds."""
PATIENCE = 200.0
"""Seconds until what should happen must have happened, on a machine with other things to do."""
SCRAPE = "750ms"
UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000}
DURATION = re.compile(r"(?<!\w)(\d+)([smh])\b")
SECONDS = re.compile(r"(?<![\w.])(\d{3,})(?![\w.])")
"""Numbers of seconds in the rules: all that have three digits or more (a test holds them to it)."""


class Prometheus(NamedTuple):
    """A server: `url`, and the `folder` of its files."""

    url: str
    folder: Path

    def get(self, path: str, **query: str) -> Any:
        """Data of an answer of the HTTP API; None while there is none."""
        where = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(where, timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, query: str) -> float | None:
        """Value of the only series of an instant query; None where there is no series."""
        found = (self.get("query", query=query) or {}).get("result") or []
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def firing(self) -> set[str]:
        """Names of the alerts that fire, without their prefix."""
        alerts = (self.get("alerts") or {}).get("alerts", [])
        names = {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}
        return {name.removeprefix("Navsynth") for name in names}

    def until_firing(self, *alerts: str) -> None:
        """Wait until all of these fire."""
        until(lambda: set(alerts) <= self.firing(), f"alarm: {', '.join(alerts)}")

    def until_quiet(self, *alerts: str) -> None:
        """Wait until Prometheus answers and none of these fires (without names: none at all)."""

        def quiet() -> bool:
            up = self.get("alerts") is not None
            return up and not (self.firing() & set(alerts) if alerts else self.firing())

        until(quiet, f"no alarm: {', '.join(alerts) or 'at all'}")


def until(condition: Callable[[], object], what: str) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")


def faster(text: str, *, speed: int = SPEED) -> str:
    """The shipped rules with every duration and every number of seconds divided by `speed`."""

    def sooner(found: re.Match) -> str:
        return f"{max(1, round(int(found[1]) * UNITS[found[2]] / speed))}ms"

    rules = yaml.safe_load(text)
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if "for" in rule:
            rule["for"] = DURATION.sub(sooner, rule["for"])
        expr = SECONDS.sub(lambda found: f"{int(found[1]) / speed:g}", rule["expr"])
        rule["expr"] = DURATION.sub(sooner, expr)
    return yaml.safe_dump(rules)


def free_port() -> int:
    """A port below the range that others get by chance."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def _impatient(folder: Path) -> None:
    """Scrape often, and only what is found under `targets/`."""
    path = folder / "prometheus.yml"
    config = yaml.safe_load(path.read_text())
    config["global"] = {
        "scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": "500ms",
    }  # fmt: skip
    config["scrape_configs"] = config["scrape_configs"][:1]
    config["scrape_configs"][0]["file_sd_configs"][0]["refresh_interval"] = "1s"
    path.write_text(yaml.safe_dump(config))
    path = folder / "rules.yml"
    path.write_text(faster(path.read_text()))


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Start one on a free port of loopback, with all its files under `folder`."""
    write(folder)
    _impatient(folder)
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        found = Prometheus(f"http://{address}", folder)
        until(lambda: server.poll() is not None or found.get("status/config"), "it answers")
        assert server.poll() is None, (folder / "log").read_text()
        yield found
    finally:
        server.terminate()
        server.wait()
