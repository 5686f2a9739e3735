"""Write what Prometheus and Grafana need: python -m launch.prometheus write DIR

DIR gets prometheus.yml, rules.yml, rules_test.yml, dashboard.json and targets/. Start runs with
`telemetry.targets=DIR/targets/`, and `prometheus --config.file=DIR/prometheus.yml`.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path

from launch.prometheus.dashboard import dashboard

SHIPPED = ("prometheus.yml", "rules.yml", "rules_test.yml")


def write(folder: Path) -> list[Path]:
    """Write everything into a folder; the files written."""
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    texts = {name: (files("launch.prometheus") / name).read_text("utf-8") for name in SHIPPED}
    texts["dashboard.json"] = json.dumps(dashboard(), indent=1) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def main(argv: list[str] | None = None) -> int:
    """Entry point; 2 where the folder cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.prometheus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["write"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        for path in write(options.folder):
            print(path)
    except OSError as error:
        print(f"{options.folder}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
