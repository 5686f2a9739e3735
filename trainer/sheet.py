"""A look at training while it goes on: some clips as they are now, real above generated."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import numpy as np
import torch

from data_shards.dataset import ClipReader, Part, Request
from data_shards.rows import rows_of
from data_shards.shards import OpenManifest, Shards
from trainer import pictures
from trainer.fidelity import to_uint8
from trainer.latents import KINDS
from trainer.loop import Parts, Progress
from trainer.scores import video_psnr

SHEET = 8
"""Clips of a sample sheet."""
HELD = 8 << 20
"""Bytes of frames, at most, that are kept from one sheet to the next."""
_held: WeakKeyDictionary[Shards, Part] = WeakKeyDictionary()
"""The clips of a training's sheets, which are always the same, for as long as its set is open."""

log = logging.getLogger("navsynth")


def write_sheet(parts: Parts, at: Progress, *, count: int = SHEET) -> None:
    """A sheet of some training clips as they are now, real above generated; all ranks together.
    Damaged clips are not on it. Footage out of reach and a disk that is full cost the picture and a
    warning, not the run."""
    engine, opened = parts.engine, parts.opened
    clips = np.linspace(0, opened.manifest.clips - 1, min(count, opened.manifest.clips)).astype(int)
    layout = parts.config.latents
    rows = [rows_of(opened, clips, kind) for kind in (layout.static_key, layout.transient_key)]
    codes = [engine.dictionary.rows(kind, row_B) for kind, row_B in zip(KINDS, rows, strict=True)]
    if engine.ranks.comm.rank:
        return
    part = _read(opened, clips)
    whole_B = part.valid_B.numpy()
    if part.error or not whole_B.any():
        why = part.error or part.damages[0].reason
        log.warning("no samples of step %d (%s); training goes on", at.step, why)
        return
    engine.networks.eval()
    with torch.no_grad(), engine.average.shown():
        told_BS = engine.networks.told(codes[0], *rows)
        fake = to_uint8(engine.networks(told_BS, codes[1])[0]).cpu()
    engine.networks.train()
    names = [opened.manifest.videos[v].name for v in opened.table["video"][clips[whole_B]]]
    real_BTHWC, fake_BTHWC = (
        x.permute(0, 1, 3, 4, 2).numpy()[whole_B] for x in (part.frames_BTCHW, fake)
    )
    psnr = float(video_psnr(fake_BTHWC, real_BTHWC).mean())
    parts.observer.evaluated({"psnr_sample": psnr})
    path = parts.folder / "samples" / f"step-{at.step:08d}.png"
    parts.telemetry.note(
        "sample", step=at.step, seconds=round(at.seconds, 1), psnr_sample=round(psnr, 3),
        text=f"step {at.step}: {psnr:.2f} dB over the {len(names)} videos of samples/{path.name}",
    )  # fmt: skip
    sheet = pictures.sheet(pictures.real_above_generated(names, real_BTHWC, fake_BTHWC))
    try:
        pictures.write_png(path, sheet)
    except OSError as error:
        log.warning("%s: not written (%s); training goes on", path, error.strerror)


def _read(opened: OpenManifest, clips: np.ndarray) -> Part:
    """Some clips, read once: other ranks wait for a sheet, and a store may be far away."""
    held = _held.get(opened.shards)
    if held is not None and np.array_equal(held.request.clip_B, clips):
        return held
    part = ClipReader(opened)[Request(0, clips, np.zeros_like(clips))]
    if not part.error and part.frames_BTCHW.nbytes <= HELD:
        _held[opened.shards] = part
    return part
