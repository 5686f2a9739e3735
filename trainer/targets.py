"""The file_sd file by which Prometheus finds the endpoints of a run.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_shards.errors import UserError
from trainer.commit import replace_durable

ANYWHERE = ("", "0.0.0.0", "::")
LABEL = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")


def targets_file(setting: str, *, run: str) -> Path | None:
    """The file that `telemetry.targets` means: FILE, or RUN.json in a folder; None: none."""
    if not setting:
        return None
    path = Path(setting)
    return path / f"{run}.json" if setting.endswith("/") or path.is_dir() else path


def labels_of(setting: str) -> dict[str, str]:
    """The labels that `telemetry.labels` means.

    Raises:
        UserError: not NAME=VALUE,... with names that Prometheus takes.
    """
    pairs = [pair.partition("=") for pair in setting.split(",") if setting]
    for name, equals, value in pairs:
        if not (equals and value and LABEL.fullmatch(name)) or name.startswith("__"):
            raise UserError(
                f"telemetry.labels: {setting!r} is not NAME=VALUE,NAME=VALUE; names are letters, "
                "digits and _"
            )
    return {name: value for name, _, value in pairs}


def write_targets(
    path: Path, endpoints: Sequence[Mapping[str, Any]], *, labels: Mapping[str, str]
) -> None:
    """Write a run's endpoints (address, port, node), atomically.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps([target(endpoint, labels=labels) for endpoint in endpoints], indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durable(path, text.encode())
    except OSError as error:
        raise UserError(f"telemetry.targets: {path}: {error.strerror}") from None


def target(endpoint: Mapping[str, Any], *, labels: Mapping[str, str]) -> dict[str, Any]:
    """An endpoint as an entry of the file; "any address" becomes the node's name."""
    host = endpoint["node"] if endpoint["address"] in ANYWHERE else endpoint["address"]
    host = f"[{host}]" if ":" in host else host
    shown = {"node": endpoint["node"], **labels}
    return {"targets": [f"{host}:{endpoint['port']}"], "labels": shown}
