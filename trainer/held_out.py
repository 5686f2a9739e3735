"""Cells of the identity x action matrix that were held out of training, generated (Tab. 3, Fig. 6).

A cell's content comes from the static rows of clips of the same identity, its motion from the
transient rows of clips of the same action; no clip of the cell itself was trained on. The result is
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
from trainer.cards import FCS, MCS, Score, network, protocol
from trainer.progress import progress
from trainer.vgg import motion_of

if TYPE_CHECKING:
    from trainer.run import Run
    from trainer.vgg import Vgg

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
    from data_shards.stream import open_manifest

    opened = open_manifest(where, config=run.config.data)
    facts, trained = opened.manifest, run.manifest
    for name in ("frames", "stride", "height", "width"):
        ours, theirs = getattr(trained, name), getattr(facts, name)
        if ours != theirs:
            raise UserError(f"{where}: {name} is {theirs}, the run was trained on {ours}")
    _, first = np.unique(opened.table["video"], return_index=True)
    part = ClipReader(opened)[Request(0, first, np.zeros(len(first), np.int64))]
    if part.error or part.damages:
        raise UserError(part.error or part.damages[0].reason)
    from trainer.pictures import channels_last

    return HeldOut(facts, channels_last(part.frames_BTCHW))


def score_cells(run: Run, held: HeldOut, *, vgg: Vgg | None = None) -> dict[str, Any]:
    """PSNR and SSIM of each held-out video, against its footage; and of the nearest training video.

    `psnr`, `ssim` and `fcs` of a cell are means over at most 8 pairs of rows. Of all cells:
    `fcs` beside its `fcs_bound`, the footage's own; with `vgg` `mcs`, every cell weighing the same,
    beside `mcs_frozen`, that of videos without motion (Sec. 4.2). Both compare motion as such, so a
    cell's action may be at another phase than its footage, which PSNR and SSIM punish.

    Raises:
        UserError: no held-out video can be made of the run's rows.
    """
    clips = render.clips_of(run, render.spread_videos(run, MOST_COMPARED))
    trained = render.real_clips(run, clips)
    cells, skipped, motions = [], [], []
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
        if vgg:
            pair = (np.ascontiguousarray(truth[None]), fakes)
            motions.append([motion_of(vgg, torch.from_numpy(videos)) for videos in pair])
    if not cells:
        raise UserError(
            f"{held.manifest.name}: no held-out video shares an identity and an action with the "
            "training footage; label both (data_shards.prepare --labels)"
        )
    names = ("psnr", "ssim", "nearest_psnr", "fcs", "fcs_bound")
    means = {name: float(np.mean([cell[name] for cell in cells])) for name in names}
    if vgg:
        real_K, fake_K = (torch.stack(part).mean(dim=0) for part in zip(*motions, strict=True))
        means["mcs"] = scores.mcs(real_K, fake_K)
        means["mcs_frozen"] = scores.mcs(real_K, torch.zeros_like(real_K))
    return {**means, "cells": cells, "skipped": skipped}


def cell_scores(run: Run, held: HeldOut, found: dict[str, Any], *, vgg: Vgg | None) -> list[Score]:
    """FCS and MCS of what `score_cells` found, with their protocol cards."""
    facts = held.manifest
    videos = f"{len(found['cells'])} held out, up to {MOST_PAIRS} pairs of rows each"
    footage = f"{facts.name}, {facts.fingerprint[:12]}"
    card = protocol(run, videos=videos, definition=FCS) | {"footage": footage}
    fcs, bound = found["fcs"], found["fcs_bound"]
    better = "higher, up to the bound"
    table = [Score("FCS, held out", fcs, "", better, bound, abs(fcs - bound), card)]
    if vgg:
        still = {"of a frozen first frame": f"{found['mcs_frozen']:.2f}"}
        card = protocol(run, videos=videos, definition=MCS, **network(vgg), **still)
        card["footage"] = footage
        table.append(Score("MCS, held out", found["mcs"], "", "lower", None, None, card))
    return table


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
