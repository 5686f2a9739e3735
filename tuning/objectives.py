"""Measures that a study may aim at: which way is better, what they need, how they are read.

Every figure is read from a trial's files: run.json (PSNR over all training clips), evaluation.json
(`python -m trainer.evaluate`, on the same clips for every trial), and the newest checkpoint. Torch
is imported by what needs it only: a trial's actor does without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from trainer.cards import CELLS
from trainer.commit import read_json

FLOAT = 4


class Objective(NamedTuple):
    """One measure."""

    name: str
    direction: str
    """maximize | minimize, as optuna spells it."""
    meaning: str
    evaluated: bool
    read: Callable[[Path, str], float]
    """From a run folder and the place of its footage."""


class NoFigure(ValueError):  # noqa: N818
    """An evaluation left a figure out; the message says why."""


def _final(run: Path, where: str) -> float:
    del where
    return float(read_json(run / "run.json")["final"]["psnr"])


def _evaluation(run: Path) -> dict[str, Any]:
    return read_json(run / "evaluation.json")


def _score(name: str, field: str) -> Callable[[Path, str], float]:
    def read(run: Path, where: str) -> float:
        del where
        table = {score["name"]: score for score in _evaluation(run)["scores"]}
        return float(table[name][field])

    return read


def _exchange(run: Path, where: str) -> float:
    del where
    found = _evaluation(run)
    if found["held_out"] is None:
        told = [item["why"] for item in found["left_out"] if item["name"] == CELLS]
        raise NoFigure(f"exchange: {'; '.join(told) or 'no cell was scored'}")
    return float(found["held_out"]["psnr"])


def bytes_per_video(run: Path, where: str) -> float:
    """Bytes of networks (as saved) and dictionary rows, over the videos that they reproduce."""
    from data_shards.stream import open_manifest
    from trainer.config import resolve

    manifest, layout = open_manifest(where).manifest, resolve(file=str(run / "config.yaml")).latents
    networks = max((run / "checkpoints").glob("step-*/common-networks.safetensors"))
    static = manifest.rows(layout.static_key) * layout.static
    numbers = static + manifest.rows(layout.transient_key) * layout.transient * manifest.frames
    return (networks.stat().st_size + FLOAT * numbers) / len(manifest.videos)


FIT_STEPS = 200
"""Steps in which latents of held-out videos are found."""
OBJECTIVES: dict[str, Objective] = {
    row.name: row
    for row in (
        Objective("psnr", "maximize", "PSNR of the training clips, dB", False, _final),
        Objective("mcs", "minimize", "MCS, motion", True, _score("MCS", "value")),
        Objective(
            "fcs", "minimize", "FCS's distance to its bound", True, _score("FCS", "distance")
        ),
        Objective("exchange", "maximize", "PSNR of held-out cells, dB", True, _exchange),
        Objective(
            "unseen",
            "maximize",
            "PSNR of held-out videos, fitted, dB",
            True,
            _score("PSNR, unseen", "value"),
        ),
        Objective(
            "unseen-mcs",
            "minimize",
            "MCS of held-out videos, fitted",
            True,
            _score("MCS, unseen", "value"),
        ),
        Objective(
            "unseen-fcs",
            "minimize",
            "FCS of held-out videos, fitted, distance to its bound",
            True,
            _score("FCS, unseen", "distance"),
        ),
        Objective("bytes", "minimize", "bytes per video", False, bytes_per_video),
    )
}


UNSEEN = tuple(name for name in OBJECTIVES if name.startswith("unseen"))
"""Those that need latents of held-out videos."""


def needs_vgg(names: tuple[str, ...]) -> bool:
    """Whether one of some objectives is read from VGG16's features."""
    return any(name.endswith("mcs") for name in names)


def scores_of(names: tuple[str, ...], run: Path, where: str) -> dict[str, float]:
    """The figures of a finished trial; `where` is its footage.

    Raises:
        ValueError: one that is missing or not finite.
    """
    found = {}
    for name in names:
        try:
            found[name] = OBJECTIVES[name].read(run, where)
        except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error})") from None
        if not math.isfinite(found[name]):
            raise ValueError(f"{name} is {found[name]}")
    return found


def require(names: tuple[str, ...], manifest: Manifest, *, where: str, vgg: str) -> None:
    """Refuse objectives that the footage or this machine cannot serve; `vgg`: VGG16 weights.

    Raises:
        UserError: an unknown or repeated one; labels, held-out cells or VGG16 weights are missing.
    """
    from trainer.vgg import ENVIRONMENT

    for name in names:
        if name not in OBJECTIVES:
            raise UserError(f"--objective: {name!r} is none of {', '.join(OBJECTIVES)}")
    if len(set(names)) < len(names):
        raise UserError(f"--objective: {', '.join(names)} names one twice")
    for name in names:
        if name == "exchange" and not (manifest.identities and manifest.actions):
            raise UserError(
                f"--objective: {name} needs footage with identities and actions; {where} has none"
            )
        held_out = name == "exchange" or name in UNSEEN
        if held_out and not (Path(where) / "held-out").is_dir():
            raise UserError(
                f"--objective: {name} needs {where}/held-out on a disk; prepare the footage with "
                "held-out cells"
            )
        if needs_vgg((name,)) and not vgg:
            raise UserError(
                f"--objective: {name} needs VGG16 weights; give --vgg FILE or ${ENVIRONMENT}"
            )
