"""Reading run folders: what was asked, what happened, what came out. Files only, no torch.

A run in progress is read as far as it is written: a line that is being appended is left out, and
lines that a resumed run has written again replace those of the run that broke off.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_shards.errors import UserError

SILENT_SECONDS = 600
"""A run that says it is running and has not written a metric for so long is suspected dead."""


class RunRecord(NamedTuple):
    """One run folder as it stood when it was read."""

    folder: Path
    name: str
    config: dict[str, Any]
    """Flat: `latents.static_key` -> value."""
    config_text: str
    info: dict[str, Any]
    """run.json: status, starts, events."""
    metrics: list[dict[str, Any]]
    """One per logged step, steps strictly increasing, with `elapsed` seconds over all starts."""
    evaluation: dict[str, Any] | None
    age_seconds: float | None
    """Since the last metric was written."""

    @property
    def status(self) -> str:
        """What run.json says, or `silent` for a running one that has stopped writing."""
        said = str(self.info.get("status", "unknown"))
        quiet = self.age_seconds is not None and self.age_seconds > SILENT_SECONDS
        return "silent" if said == "running" and quiet else said

    @property
    def command(self) -> str:
        """The command of the last start, as one would type it; empty where none was kept."""
        starts = self.info.get("starts") or [{}]
        command = starts[-1].get("command", "")
        return shlex.join(map(str, command)) if isinstance(command, list) else str(command)

    def last(self, column: str) -> float | None:
        """The latest finite value of a column."""
        for line in reversed(self.metrics):
            if finite(line.get(column)):
                return float(line[column])
        return None

    def best(self, column: str) -> float | None:
        """The largest finite value of a column."""
        return max((float(x[column]) for x in self.metrics if finite(x.get(column))), default=None)

    def columns(self, prefix: str = "") -> list[str]:
        """Numeric columns that start with a prefix, in order of appearance."""
        seen: dict[str, None] = {}
        for line in self.metrics:
            for name, value in line.items():
                if name.startswith(prefix) and isinstance(value, int | float):
                    seen.setdefault(name)
        return list(seen)


def finite(value: object) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder, complete or in progress.

    Raises:
        UserError: no such folder, no config.yaml in it, or a damaged file, named.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        why = "no config.yaml in it" if path.is_dir() else "no such folder"
        raise UserError(f"{path}: not a run folder ({why}); name a folder made by trainer.main")
    text = _text(path / "config.yaml")
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path / 'config.yaml'}: not YAML ({_first_line(error)})") from None
    metrics = path / "metrics.jsonl"
    return RunRecord(
        folder=path,
        name=path.resolve().name,
        config=flat(config),
        config_text=text,
        info=_object(path / "run.json") or {},
        metrics=one_history(read_lines(metrics)) if metrics.exists() else [],
        evaluation=_object(path / "evaluation.json"),
        age_seconds=time.time() - metrics.stat().st_mtime if metrics.exists() else None,
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; an unfinished last line is left for the next reading.

    Raises:
        UserError: any other line that is not a JSON object, by number.
    """
    lines = _text(path).split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise UserError(f"{path}:{number}: not JSON; remove the damaged line") from None
        if isinstance(item, dict) and finite(item.get("step")):
            found.append(item)
    return found


def one_history(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of several starts as one history: a step that was run again replaces the first run.

    `seconds` counts from each start; `elapsed` goes on over all of them.
    """
    kept: list[dict[str, Any]] = []
    offset = before = 0.0
    for line in lines:
        seconds = float(line["seconds"]) if finite(line.get("seconds")) else before
        if seconds < before:
            offset += before
        before = seconds
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append({**line, "elapsed": offset + seconds})
    return kept


def flat(config: object, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted names."""
    if not isinstance(config, dict) or not config:
        return {prefix.rstrip("."): config} if prefix else {}
    found: dict[str, Any] = {}
    for name, value in config.items():
        found.update(flat(value, f"{prefix}{name}."))
    return found


def differences(runs: list[RunRecord]) -> list[tuple[str, list[Any]]]:
    """Config settings in which runs differ: (dotted name, value of each run or None)."""
    names = sorted({name for run in runs for name in run.config})
    table = [(name, [run.config.get(name) for run in runs]) for name in names]
    return [(name, values) for name, values in table if len({repr(v) for v in values}) > 1]


def events(run: RunRecord) -> list[dict[str, Any]]:
    """Starts, restarts and faults of a run, oldest first: time, kind, step, text."""
    found = []
    for index, start in enumerate(run.info.get("starts") or []):
        text = f"{start.get('world', '?')} process(es)"
        kind = "restart" if index else "start"
        found.append(
            {"time": start.get("time"), "kind": kind, "step": start.get("step"), "text": text}
        )
    for event in [*(run.info.get("events") or []), *(run.info.get("faults") or [])]:
        rest = {
            k: v for k, v in event.items() if k not in ("time", "kind", "step", "text", "message")
        }
        text = (
            event.get("text")
            or event.get("message")
            or ", ".join(f"{k} {v}" for k, v in rest.items())
        )
        kind = str(event.get("kind", "fault"))
        found.append(
            {"time": event.get("time"), "kind": kind, "step": event.get("step"), "text": text}
        )
    return sorted(found, key=lambda event: _moment(event["time"]))


def _moment(value: object) -> float:
    """Seconds since the epoch of a number or an ISO date; 0 where there is none."""
    import datetime

    if isinstance(value, int | float):
        return float(value)
    try:
        return datetime.datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return 0.0


def _object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({_first_line(error)}); remove or restore it") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; remove or restore it")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({_first_line(error)})") from None


def _first_line(error: object) -> str:
    return str(error).splitlines()[0]
