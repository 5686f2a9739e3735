"""Cells of the identity x action matrix that were held out of training, generated (Tab. 3, Fig. 6).

A cell's content comes from the static rows of clips of the same identity, its motion from the
transient rows of clips of the same action; no clip of the cell itself was trained on. The result is
compared with the footage that was held out, and beside it stands the best that any training video
achieves against the same footage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from trainer import render, scores
from trainer.cards import FCS, Score, footage_card, protocol
from trainer.fitted import open_like
from trainer.progress import progress

if TYPE_CHECKING:
    from trainer.run import Run

MOST_PAIRS = 8
"""Pairs of rows tried for a cell where several videos share its identity or action; their mean
counts, never the best, since choosing by the truth would flatter."""
MOST_COMPARED = 512


class HeldOut(NamedTuple):
    """Footage that was not trained on."""

    manifest: Manifest
    frames_BTHWC: np.ndarray
    """The first clip of each video."""


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

    return HeldOut(opened.manifest, channels_last(part.frames_BTCHW))


def score_cells(run: Run, held: HeldOut) -> dict[str, Any]:
    """PSNR and SSIM of each held-out video, against its footage; and of the nearest training video.

    `psnr`, `ssim` and `fcs` of a cell are means over at most 8 pairs of rows; `fcs_bound` is the
    footage's own. MCS is left out: the differences that it averages telescope to the last frame
    less the first, so that an action at another phase scores worse than no motion at all.

    Raises:
        UserError: no held-out video can be made of the run's rows.
    """
    clips = render.clips_of(run, render.spread_videos(run, MOST_COMPARED))
    trained = render.real_clips(run, clips)
    cells, skipped = [], []
    for index in progress(range(len(held.manifest.videos)), label="held-out cells"):
        video, truth = held.manifest.videos[index], held.frames_BTHWC[index]
        pairs = _pairs(run, held.manifest, index)
        if not len(pairs):
            skipped.append(video.name)
            continue
        fakes = render.render(run, pairs[:, 0], pairs[:, 1])
        truths = np.broadcast_to(truth, fakes.shape)
        nearest = scores.video_psnr(trained, np.broadcast_to(truth, trained.shape)).max()
        cells.append(
            {
                "name": video.name,
                "psnr": float(np.minimum(scores.video_psnr(fakes, truths), 100.0).mean()),
                "ssim": float(scores.ssim(fakes, truths).mean()),
                "nearest_psnr": float(min(nearest, 100.0)),
                "fcs": float(scores.fcs(fakes).mean()),
                "fcs_bound": float(scores.fcs(truth[None])[0]),
                "pairs": len(pairs),
            }
        )
    if not cells:
        raise UserError(
            f"{held.manifest.name}: no held-out video shares an identity and an action with the "
            "training footage; label both (data_shards.prepare --labels)"
        )
    names = ("psnr", "ssim", "nearest_psnr", "fcs", "fcs_bound")
    means = {name: float(np.mean([cell[name] for cell in cells])) for name in names}
    return {**means, "cells": cells, "skipped": skipped}


def cell_scores(run: Run, held: HeldOut, found: dict[str, Any]) -> list[Score]:
    """FCS of what `score_cells` found, with its protocol card."""
    videos = f"{len(found['cells'])} held out, up to {MOST_PAIRS} pairs of rows each"
    card = protocol(run, videos=videos, definition=FCS) | footage_card(held.manifest)
    fcs, bound = found["fcs"], found["fcs_bound"]
    better = "higher, up to the bound"
    return [Score("FCS, held out", fcs, "", better, bound, abs(fcs - bound), card)]


def _pairs(run: Run, facts: Manifest, index: int) -> np.ndarray:
    """Rows (static, transient) that make a held-out video, at most 8 pairs: int64 (P, 2)."""
    video, trained = facts.videos[index], run.manifest
    if video.identity < 0 or video.action < 0:
        return np.empty((0, 2), np.int64)
    identity, action = facts.identities[video.identity], facts.actions[video.action]

    same_person = _row(trained.identities, identity)
    same_motion = _row(trained.actions, action)
    same_identity = render.clips_of(
        run, [v.name for v in trained.videos if v.identity == same_person]
    )
    same_action = render.clips_of(run, [v.name for v in trained.videos if v.action == same_motion])
    if not same_identity or not same_action:
        return np.empty((0, 2), np.int64)
    static = np.unique(render.rows_of(run, same_identity).static_N)
    transient = np.unique(render.rows_of(run, same_action).transient_N)
    grid = np.stack(np.meshgrid(static, transient, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid[render.spread(MOST_PAIRS, len(grid))]


def _row(labels: tuple[str, ...], label: str) -> int | None:
    """Row of a label in a table that may order its labels otherwise, or lack it."""
    return labels.index(label) if label in labels else None
