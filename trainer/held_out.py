"""Cells of the identity x action matrix that were held out of training, generated (Tab. 3, Fig. 6).

A cell's content comes from the static rows of clips of the same identity, its motion from the
transient rows of clips of the same action. Videos of which a clip of the cell itself was trained
on, and pairs of rows that are a training clip's, are left out, which is said. The result is
compared with the footage that was held out, and beside it stands the best that any training video
achieves against the same footage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from trainer import render, scores
from trainer.cards import FCS, Score, footage_card, protocol
from trainer.fitted import open_like
from trainer.fitting import Nearest, nearest_of
from trainer.progress import progress

if TYPE_CHECKING:
    from trainer.run import Run

MOST_PAIRS = 8
"""Pairs of rows tried for a cell where several videos share its identity or action; their mean
counts, never the best, since choosing by the truth would flatter."""
MOST_COMPARED = 512
"""Training videos, evenly spread, among which the nearest one is looked for."""
UNSHARED = (
    "no training video shares an identity, or none an action, with it; label both "
    "(data_shards.prepare --labels)"
)
TRAINED = "a training video has its identity and its action"
NO_NEW_PAIR = (
    "every pair of rows that makes it is a training clip's, as with latents.static_key=dataset, "
    "where all share one static row"
)
"""Why a held-out video is skipped."""


class NothingNewError(UserError):
    """None of the held-out videos is a combination that was not trained on."""


class HeldOut(NamedTuple):
    """Footage that was not trained on."""

    manifest: Manifest
    frames_BTHWC: np.ndarray
    """The first clip of each video."""
    where: str = ""
    """Folder or manifest of the set."""


def read_held_out(run: Run, where: str) -> HeldOut:
    """Read the first clip of every video of a held-out set.

    Raises:
        UserError: unreadable, or cut otherwise than what the run was trained on.
    """
    from data_shards.dataset import ClipReader, Request

    opened = open_like(run, where)
    _, first = np.unique(opened.table["video"], return_index=True)
    part = ClipReader(opened)[Request(0, first, np.zeros(len(first), np.int64))]
    if part.error or part.damages:
        raise UserError(part.error or part.damages[0].reason)
    from trainer.pictures import channels_last

    return HeldOut(opened.manifest, channels_last(part.frames_BTCHW), where)


def score_cells(run: Run, held: HeldOut) -> dict[str, Any]:
    """PSNR and SSIM of each held-out video, against its footage; and of the nearest training video.

    `psnr`, `ssim` and `fcs` of a cell are means over at most 8 pairs of rows; `fcs_bound` is the
    footage's own. MCS is left out: the differences that it averages telescope to the last frame
    less the first, so that an action at another phase scores worse than no motion at all.

    Raises:
        NothingNewError: no held-out video is a new combination of the run's rows.
    """
    facts, trained = held.manifest, render.trained_pairs(run)
    found = [new_pairs(run, facts, index, trained) for index in range(len(facts.videos))]
    kept = [index for index, (_, why) in enumerate(found) if not why]
    skipped = [
        {"name": video.name, "why": why}
        for video, (_, why) in zip(facts.videos, found, strict=True)
        if why
    ]
    if not kept:
        reasons = "; ".join(dict.fromkeys(each["why"] for each in skipped))
        told = f"{facts.name}: no combination that was not trained on: {reasons}"
        raise NothingNewError(told)
    near, cells = _nearest(run, held.frames_BTHWC[kept]), []
    for number, index in enumerate(progress(kept, label="held-out cells")):
        truth, (pairs, _) = held.frames_BTHWC[index], found[index]
        fakes = render.render(run, pairs[:, 0], pairs[:, 1])
        truths = np.broadcast_to(truth, fakes.shape)
        cells.append(
            {
                "name": facts.videos[index].name,
                "psnr": float(np.minimum(scores.video_psnr(fakes, truths), 100.0).mean()),
                "ssim": float(scores.ssim(fakes, truths).mean()),
                "nearest_psnr": float(near.psnr_V[number]),
                "fcs": float(scores.fcs(fakes).mean()),
                "fcs_bound": float(scores.fcs(truth[None])[0]),
                "pairs": len(pairs),
            }
        )
    names = ("psnr", "ssim", "nearest_psnr", "fcs", "fcs_bound")
    means = {name: float(np.mean([cell[name] for cell in cells])) for name in names}
    return {**means, "compared": near.compared, "cells": cells, "skipped": skipped}


def cell_scores(run: Run, held: HeldOut, found: dict[str, Any]) -> list[Score]:
    """FCS of what `score_cells` found, with its protocol card."""
    videos = f"{len(found['cells'])} held out, up to {MOST_PAIRS} pairs of rows each"
    card = protocol(run, videos=videos, definition=FCS) | footage_card(held.manifest, held.where)
    fcs, bound = found["fcs"], found["fcs_bound"]
    better = "higher, up to the bound"
    return [Score("FCS, held out", fcs, "", better, bound, abs(fcs - bound), card)]


def new_pairs(
    run: Run, facts: Manifest, index: int, trained: render.Pairs
) -> tuple[np.ndarray, str]:
    """Rows (static, transient) that make a held-out video, at most 8 pairs, int64 (P, 2), none of
    them among the `trained` ones (`render.trained_pairs`); or none, and why."""
    video, own, none = facts.videos[index], run.manifest, np.empty((0, 2), np.int64)
    if video.identity < 0 or video.action < 0:
        return none, UNSHARED
    person = _row(own.identities, facts.identities[video.identity])
    motion = _row(own.actions, facts.actions[video.action])
    if person is None or motion is None:
        return none, UNSHARED
    if any((v.identity, v.action) == (person, motion) for v in own.videos):
        return none, TRAINED
    same_identity = render.clips_of(run, [v.name for v in own.videos if v.identity == person])
    same_action = render.clips_of(run, [v.name for v in own.videos if v.action == motion])
    if not same_identity or not same_action:
        return none, UNSHARED
    static = np.unique(render.rows_of(run, same_identity).static_N)
    transient = np.unique(render.rows_of(run, same_action).transient_N)
    grid_P2 = np.stack(np.meshgrid(static, transient, indexing="ij"), axis=-1).reshape(-1, 2)
    new_P2 = grid_P2[~trained.hold(*grid_P2.T)]
    if not len(new_P2):
        return none, NO_NEW_PAIR
    return new_P2[render.spread(MOST_PAIRS, len(new_P2))], ""


def _nearest(run: Run, frames_VTHWC: np.ndarray) -> Nearest:
    """The nearest of some training videos to each held-out one."""
    chosen = render.sound_videos(run, render.spread_videos(run, MOST_COMPARED))
    frames_VTCHW = torch.from_numpy(frames_VTHWC).movedim(-1, 2)
    compared = chosen.of(len(run.manifest.videos))
    return nearest_of(run, frames_VTCHW, chosen.clips, compared=compared)


def _row(labels: tuple[str, ...], label: str) -> int | None:
    """Row of a label in a table that may order its labels otherwise, or lack it."""
    return labels.index(label) if label in labels else None
