"""The file_sd file by which Prometheus finds the endpoints of a run.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_shards.errors import UserError
from trainer.commit import replace_durable

ANYWHERE = ("", "0.0.0.0", "::")


def targets_file(setting: str, *, run: str) -> Path | None:
    """The file that `telemetry.targets` means: FILE, or RUN.json in a folder; None: none."""
    if not setting:
        return None
    path = Path(setting)
    return path / f"{run}.json" if setting.endswith("/") or path.is_dir() else path


def write_targets(path: Path, endpoints: Sequence[Mapping[str, Any]], *, run: str) -> None:
    """Write a run's endpoints (address, port, node), atomically.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps([target(endpoint, run=run) for endpoint in endpoints], indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durable(path, text.encode())
    except OSError as error:
        raise UserError(f"telemetry.targets: {path}: {error.strerror}") from None


def target(endpoint: Mapping[str, Any], *, run: str) -> dict[str, Any]:
    """An endpoint as an entry of the file; "any address" becomes the node's name."""
    host = endpoint["node"] if endpoint["address"] in ANYWHERE else endpoint["address"]
    host = f"[{host}]" if ":" in host else host
    labels = {"run": run, "node": endpoint["node"]}
    return {"targets": [f"{host}:{endpoint['port']}"], "labels": labels}
