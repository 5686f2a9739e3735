"""The full model, its ablations and its rows by video: trainings that several stages look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from launch.reproduce import trainings
from launch.reproduce.context import Context, Table
from launch.reproduce.figures import Figures
from launch.reproduce.footage import FootageSet
from launch.reproduce.trainings import Training
from trainer.commit import read_json
from trainer.leaving import RUN_FILE

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "-l_triplet -l_static": ("bare", ("loss.lambda_triplet=0", "loss.lambda_static=0")),
    "-l_triplet +l_static": ("static", ("loss.lambda_triplet=0",)),
    "+l_triplet -l_static": ("triplet", ("loss.lambda_static=0",)),
    "full": ("full", ()),
}
"""Rows of Tab. 4b: short name, settings over the preset."""
OWN = "full, rows by video"
"""The full model with rows of its own for every video, where the paper's layout shares them."""
TUNED = {OWN: ("video", ("latents.static_key=video", "latents.transient_key=video"))}
STILL = "latents not optimised"
"""Random latents that do not move: 1e-30 is as good as the rate of 0 that settings refuse, since it
is lost in float32 beside any latent."""
UNMOVED = {STILL: ("still", ("begin.latents=random", "latents.rate=1e-30"))}
MODELS = {"full": "full model", OWN: "full model with rows by video"}
"""The rows that are held against the footage itself, and what claims call them."""
NEW = "new pairs of rows by video"
"""What claims call random videos of `OWN`, none of which training shows."""


class Rows(NamedTuple):
    """Everything that one data set gave, over seeds."""

    references: dict[str, Figures]
    found: dict[str, list[Figures]]
    """Training videos."""
    random: dict[str, list[Figures]]
    """Random videos of the dictionary (Sec. 4.4.1); of `OWN` only pairs that training does not
    show, so none where there are no such pairs."""
    steps: dict[str, list[int]]
    card: dict[str, str]
    random_card: dict[str, str]
    windows: Table | str = ""
    """Other windows of the real videos; or why there are none."""
    known: bool = False
    """The random videos of `VARIANTS` are all cells that training shows."""
    minutes: Mapping[str, Sequence[float]] = MappingProxyType({})
    """What each training took."""


def variant(context: Context, footage: FootageSet, name: str, seed: int) -> Training:
    """The training of a row: those without a loss or without optimised latents take the steps of
    the full model, which is there already or is trained now."""
    short, words = {**VARIANTS, **TUNED, **UNMOVED}[name]
    one = Training(footage, trainings.whole_set(context, footage), short, words, seed)
    if name in MODELS or context.plan.minutes is None:
        return one
    full = trainings.full_model(context, footage, seed=seed)
    return one._replace(steps=int(read_json(full / RUN_FILE)["step"]))
