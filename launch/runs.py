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
from trainer.settings import without_aliases

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
    """One per logged step, flat (`loss/rec`, `time/forward`), steps strictly increasing."""
    notes: list[dict[str, Any]]
    """Events that the run wrote between its steps."""
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
        start = (self.info.get("starts") or [{}])[-1]
        command = start.get("command", "")
        if not isinstance(command, list):
            return str(command)
        words = [str(word) for word in command]
        if words and words[0].endswith(".py"):
            script = "trainer/main.py" if words[0].endswith("trainer/main.py") else words[0]
            words = [*_starter(start.get("world", 1)), script, *words[1:]]
        return shlex.join(words)

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


def _starter(world: int) -> list[str]:
    if world == 1:
        return ["python"]
    launch = ["accelerate", "launch", "--config_file", "accelerate_config.yaml"]
    return [*launch, "--num_processes", str(world)]


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
        config = yaml.safe_load(without_aliases(text)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path / 'config.yaml'}: not YAML ({_first_line(error)})") from None
    metrics = path / "metrics.jsonl"
    lines = read_lines(metrics) if metrics.exists() else []
    return RunRecord(
        folder=path,
        name=path.resolve().name,
        config=flat(config),
        config_text=text,
        info=_object(path / "run.json") or {},
        metrics=one_history([line for line in lines if line.get("kind", "step") == "step"]),
        notes=[line for line in lines if line.get("kind", "step") != "step"],
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


GROUPS = {"phases": "time", "rates": "lr", "norms": "norm"}
"""Groups of a line that are called otherwise in its flat form."""


def one_history(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flat lines of all starts as one history: a step that was run again replaces the first run."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append({_renamed(name): value for name, value in flat(line, sign="/").items()})
    return kept


def _renamed(name: str) -> str:
    group, sign, rest = name.partition("/")
    return f"{GROUPS.get(group, group)}/{rest}" if sign else name


def flat(config: object, prefix: str = "", *, sign: str = ".") -> dict[str, Any]:
    """A nested mapping as one of joined names."""
    if not isinstance(config, dict) or not config:
        return {prefix.removesuffix(sign): config} if prefix else {}
    found: dict[str, Any] = {}
    for name, value in config.items():
        found.update(flat(value, f"{prefix}{name}{sign}", sign=sign))
    return found


def differences(runs: list[RunRecord]) -> list[tuple[str, list[Any]]]:
    """Config settings in which runs differ: (dotted name, value of each run or None)."""
    names = sorted({name for run in runs for name in run.config})
    table = [(name, [run.config.get(name) for run in runs]) for name in names]
    return [(name, values) for name, values in table if len({repr(v) for v in values}) > 1]


def events(run: RunRecord) -> list[dict[str, Any]]:
    """Starts, restarts, faults and what else a run noted, oldest first: time, kind, step, text.

    Starts are those of run.json; samples and checkpoints that went well are not listed. Why the run
    ended is listed where it has not noted that itself.
    """
    found = []
    for index, start in enumerate(run.info.get("starts") or []):
        kind, world = "restart" if index else "start", start.get("world", "?")
        text = f"{world} process{'' if world == 1 else 'es'}"
        found.append(_event(start, kind=kind, text=text))
    told = [*(run.info.get("events") or []), *(run.info.get("faults") or []), *run.notes]
    for event in told:
        kind = str(event.get("event") or event.get("kind", "fault"))
        routine = kind == "checkpoint" and event.get("outcome", "committed") == "committed"
        if not routine and kind not in ("started", "resumed", "sample"):
            text = event.get("text") or event.get("message") or _facts(event)
            found.append(_event(event, kind=kind, text=text))
    if run.info.get("reason") and not _noted(run, found):
        last = {"time": run.info.get("ended")}
        found.append(_event(last, kind=_ending(run), text=str(run.info["reason"])))
    return sorted(found, key=lambda event: _moment(event["time"]))


def _ending(run: RunRecord) -> str:
    return str(run.info.get("status", "failed"))


def _noted(run: RunRecord, found: list[dict[str, Any]]) -> bool:
    """Whether the newest life has an event of its own, at a step, for the way it ended."""
    begun = (run.info.get("starts") or [{}])[-1].get("time") or 0
    return any(
        event["kind"] == _ending(run)
        and event["step"] is not None
        and _moment(event["time"]) >= _moment(begun)
        for event in found
    )


def _event(source: dict[str, Any], *, kind: str, text: str) -> dict[str, Any]:
    return {"time": source.get("time"), "kind": kind, "step": source.get("step"), "text": text}


def _facts(event: dict[str, Any]) -> str:
    """Whatever an event says beside when and where, in words."""
    known = ("time", "kind", "event", "step", "text", "message")
    facts = {name: value for name, value in event.items() if name not in known}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in facts.items()
    )


def _moment(value: object) -> float:
    """Seconds since the epoch of a number or an ISO date; what has no time comes last."""
    import datetime

    if isinstance(value, int | float):
        return float(value)
    if value is None:
        return float("inf")
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
