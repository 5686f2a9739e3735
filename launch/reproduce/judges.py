"""The classifiers of the action exchange, and how they rate generated and reference videos.

Reference rows say what a rating is worth: footage of the cells, the same person in another action,
footage that is frozen, blurred or noisy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from launch.reproduce.classifier import Judge, accuracy, judged, train_judge
from launch.reproduce.context import Context, Table
from launch.reproduce.figures import REFERENCES
from launch.reproduce.footage import Clips, FootageSet, held_out_folder, prepared, read_clips

COLUMNS = ("", "right person", "right action", "both")


class Judges(NamedTuple):
    """Both classifiers, the real clips that they learned from, and their accuracy on real clips of
    the held-out cells."""

    identity: Judge
    action: Judge
    real: Clips
    accuracy: tuple[float, float]


class Labels(NamedTuple):
    """What clips are taken for: rows of the manifest's tables."""

    identity_N: np.ndarray
    action_N: np.ndarray

    def right(self, truth: Clips) -> np.ndarray:
        """Whether person and action are those of the cells, bool (N, 2)."""
        return np.stack(
            [self.identity_N == truth.identity_N, self.action_N == truth.action_N], axis=1
        )


def judges_of(context: Context, footage: FootageSet, same: dict[str, Any]) -> Judges:
    """Trained on all windows of the training cells; accuracy is on those of the held-out ones.

    Args:
        context: of the stage.
        footage: which.
        same: how the set is prepared, for `prepared`.
    """
    data = prepared(footage, name="cells-windows", windows="all", **same)
    real, unseen = read_clips(data, each=0), read_clips(held_out_folder(data), each=0)
    found, shares = [], []
    for kind, table in (("identity", real.manifest.identities), ("action", real.manifest.actions)):
        labels = getattr(real, f"{kind}_N")
        judge = train_judge(
            real.frames_NTHWC, labels, kind, classes=len(table), steps=context.plan.classify_steps
        )
        found.append(judge)
        shares.append(accuracy(judge, unseen.frames_NTHWC, getattr(unseen, f"{kind}_N")))
    return Judges(found[0], found[1], real, (shares[0], shares[1]))


def labels_of(judges: Judges, frames_NTHWC: np.ndarray) -> Labels:
    """What both classifiers take clips for."""
    return Labels(judged(judges.identity, frames_NTHWC), judged(judges.action, frames_NTHWC))


def other_actions(truth: Clips, real: Clips) -> np.ndarray:
    """For each cell the first training clip of the same person in another action, uint8; there
    is one, since every person is still seen."""
    first = [
        np.flatnonzero((real.identity_N == person) & (real.action_N != action))[0]
        for person, action in zip(truth.identity_N, truth.action_N, strict=True)
    ]
    return real.frames_NTHWC[first]


def ratings(
    footage: FootageSet,
    fakes: Sequence[np.ndarray],
    truth: Clips,
    judges: Judges,
    card: dict[str, str],
) -> Table:
    """How many of the cells, and of reference videos in their place, have the right labels; of
    generated ones (`fakes`, by seed) with each seed."""
    videos = {
        "generated": fakes,
        "footage of the cells": [truth.frames_NTHWC],
        "same person, another action": [other_actions(truth, judges.real)],
        **{name: [make(truth.frames_NTHWC)] for name, make in REFERENCES.items()},
    }
    lines = []
    for name, several in videos.items():
        counts = [_right(labels_of(judges, frames).right(truth)) for frames in several]
        lines.append((name, *(" / ".join(column) for column in zip(*counts, strict=True))))
    about = (
        "The action classifier always names some action, of a video that does not move, too: such "
        "rows are right by chance."
    )
    return Table(f"How the classifiers rate videos: {footage.name}", COLUMNS, tuple(lines), card,
                 about)  # fmt: skip


def _right(right_N2: np.ndarray) -> list[str]:
    """How many have the right person, the right action, both."""
    counts = (*right_N2.sum(axis=0), right_N2.all(axis=1).sum())
    return [f"{count} of {len(right_N2)}" for count in counts]
