"""What is done already: one JSON file; a stage whose inputs are the same is not run again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from data_shards.errors import UserError
from launch.reproduce.context import Context, Stage, StageResult, from_json, to_json
from launch.reproduce.footage import FootageSet
from trainer.commit import replace_durable

FILE = "state.json"
FORMAT = 1


def inputs_of(context: Context, name: str) -> str:
    """Hash of everything that a stage's result depends on: plan, sets and their files, features,
    and the code of the reproduction and of what it uses."""
    facts = {
        "stage": name,
        "plan": asdict(context.plan),
        "sets": [[asdict(footage), _footage_of(footage)] for footage in context.sets],
        "features": context.vgg.sha256 if context.vgg else None,
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _footage_of(footage: FootageSet) -> str:
    """Names, sizes and times of a set's files; empty for synthetic footage."""
    if not footage.root:
        return ""
    root = Path(footage.root)
    files = [(str(p.relative_to(root)), p.stat()) for p in sorted(root.rglob("*")) if p.is_file()]
    lines = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    return hashlib.sha256(lines.encode()).hexdigest()


@cache
def code_digest() -> str:
    """Of all code that a result depends on."""
    here = Path(__file__).resolve().parent
    rooms = (here, *(here.parent.parent / name for name in ("trainer", "data_shards")))
    files = sorted(path for room in rooms for path in room.rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


class State:
    """Results by stage, kept in a file that is whole at any moment."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.stages: dict[str, dict] = {}
        self.given: dict[str, list[float]] = {}
        """Minutes of a stage's trainings: as planned, and as given when it began."""
        if self.path.exists():
            try:
                found = json.loads(self.path.read_text())
                if found["format"] != FORMAT:
                    raise UserError(f"{self.path}: of another version; choose another --out")
                self.stages, self.given = dict(found["stages"]), dict(found.get("given", {}))
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{self.path}: damaged; remove it, trainings are kept") from None

    def result(self, name: str, inputs: str) -> StageResult | None:
        """The result of a stage that ran on these very inputs, if its pictures are still there."""
        entry = self.stages.get(name)
        if not entry or entry["inputs"] != inputs:
            return None
        result = from_json(entry["result"])
        there = all((self.path.parent / picture.file).is_file() for picture in result.pictures)
        return result if there else None

    def keep(self, name: str, inputs: str, result: StageResult, *, seconds: float) -> None:
        """Write a result down."""
        before = self.seconds_of(name) + self.before(name) if name in self.stages else 0.0
        self.stages[name] = {
            "inputs": inputs,
            "seconds": round(seconds, 1),
            "before": round(before, 1),
            "result": to_json(result),
        }
        self._write()

    def give(self, name: str, *, planned: float, minutes: float) -> None:
        """Write down how long a stage's trainings are, so that it goes on with the same ones."""
        self.given[name] = [planned, minutes]
        self._write()

    def minutes_of(self, name: str, *, planned: float) -> float | None:
        """What a stage was given under this very plan, if it has begun."""
        found = self.given.get(name)
        return found[1] if found and found[0] == planned else None

    def seconds_of(self, name: str) -> float:
        """What a stage took that is done."""
        return float(self.stages[name]["seconds"])

    def before(self, name: str) -> float:
        """Seconds of a stage's earlier runs, whose inputs were others."""
        return float(self.stages[name].get("before", 0.0))

    def _write(self) -> None:
        whole = {"format": FORMAT, "given": self.given, "stages": self.stages}
        text = json.dumps(whole, indent=1, allow_nan=False)
        replace_durable(self.path, f"{text}\n".encode())


def run_stage(context: Context, state: State, name: str, stage: Stage) -> StageResult:
    """A stage's result: kept, or found now."""
    inputs = inputs_of(context, name)
    kept = state.result(name, inputs)
    if kept is not None:
        return kept
    start = time.monotonic()
    result = stage.run(context)
    state.keep(name, inputs, result, seconds=time.monotonic() - start)
    return from_json(to_json(result))


def chosen_stages(names: Sequence[str], known: dict[str, Stage]) -> dict[str, Stage]:
    """Stages by name, in the table's order; all of them for no names.

    Raises:
        UserError: a name that no stage has.
    """
    for name in names:
        if name not in known:
            raise UserError(f"--stages {name}: none of {', '.join(known)}")
    return {name: stage for name, stage in known.items() if not names or name in names}
