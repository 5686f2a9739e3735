"""What is done already: one JSON file; a stage whose inputs are the same is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from data_shards.errors import UserError
from launch.reproduce import extras
from launch.reproduce.context import Context, Stage, StageResult, from_json, to_json
from launch.reproduce.digests import code_digest, files_digest
from launch.reproduce.lives import Lives
from trainer.commit import replace_durable

FILE = "state.json"
FORMAT = 1


def inputs_of(context: Context, name: str) -> str:
    """Hash of everything that a stage's result depends on: plan, sets and their files, features,
    and the code of the reproduction and of what it uses."""
    facts = {
        "stage": name,
        "plan": asdict(context.plan),
        "sets": [[asdict(footage), files_digest(footage.root)] for footage in context.sets],
        "features": context.vgg.sha256 if context.vgg else None,
        "extras": extras.digests(context.wanted),
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class State:
    """Results by stage, kept in a file that is whole at any moment."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.stages: dict[str, dict] = {}
        if self.path.exists():
            try:
                found = json.loads(self.path.read_text())
                if found["format"] != FORMAT:
                    raise UserError(f"{self.path}: of another version; choose another --out")
                self.stages = dict(found["stages"])
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

    def keep(
        self, name: str, inputs: str, result: StageResult, *, trainings: Sequence[str]
    ) -> None:
        """Write a result down, and the names of the trainings that it comes from."""
        self.stages[name] = {
            "inputs": inputs,
            "trainings": list(trainings),
            "result": to_json(result),
        }
        whole = {"format": FORMAT, "stages": self.stages}
        text = json.dumps(whole, indent=1, allow_nan=False)
        replace_durable(self.path, f"{text}\n".encode())

    def trainings(self, name: str) -> list[str]:
        """Names of the trainings that a stage's result comes from."""
        return self.stages[name]["trainings"]


def run_stage(context: Context, state: State, lives: Lives, name: str, stage: Stage) -> StageResult:
    """A stage's result: kept, or found now."""
    inputs = inputs_of(context, name)
    kept = state.result(name, inputs)
    if kept is not None:
        return kept
    own = replace(context, asked=set())
    with lives.stage(name):
        result = stage.run(own)
        state.keep(name, inputs, result, trainings=sorted(own.asked))
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
