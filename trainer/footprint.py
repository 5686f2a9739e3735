"""Bytes that a rank takes on top of what it holds, by what it is doing, before anything runs.

A training does one of these at a time, so a run takes what it holds and the largest of them; only
a save may go on beside the others, and then counts as held. Each is the sum of the tensors that
live at the worst moment of the code it names, written as what one frame, clip or weight takes.
`tests/trainer/test_estimate.py` holds them against real trainings.
"""

from __future__ import annotations

from data_shards.manifest import Manifest
from trainer import beginning, fidelity, render, sheet, summary
from trainer.config import Config
from trainer.latents import Promise
from trainer.schedule import pace

FLOAT = 4


def layers(config: Config, size: int) -> int:
    """Floats of the generator's widest hidden layer, for a frame.

    Each layer towards the latents has half as many, so all of them together have twice as many.
    """
    return config.networks.channels * size * size // 4


def step(config: Config, manifest: Manifest, *, ranks: int) -> int:
    """Forward and backward of a micro-batch: generator, loss and motion RNN."""
    speed, size, latents = pace(config.schedule), manifest.height, config.latents
    clips = -(-speed.clips // ranks)
    part = -(-clips // config.train.accumulate)
    drawn = part * (min(speed.frames, manifest.frames) or manifest.frames)
    # Each hidden layer before and after its norm is kept, and the widest has a gradient of each.
    frame = 6 * layers(config, size) + 12 * 3 * size * size
    # What trainer.networks.recurrence keeps and makes: 7 and 15 times H; codes and gradients.
    moment = 22 * config.networks.hidden + 6 * latents.transient
    batch = clips * manifest.frames * 3 * size * size
    return FLOAT * (drawn * frame + part * manifest.frames * moment) + 2 * batch


def showing(config: Config, manifest: Manifest, *, parameters: int) -> int:
    """Whole clips without gradients, for PSNR and sheets; at the end a second copy of networks."""
    size = manifest.height
    frames = max(render.CLIPS_AT_ONCE, sheet.SHEET, fidelity.CHUNK) * manifest.frames
    frames = min(frames, summary.LOOKED_AT * manifest.frames, manifest.clips * manifest.frames)
    # The widest layer before and after its norm, and the one it was made from.
    forward = frames * (2.5 * layers(config, size) + 4 * 3 * size * size)
    return int(FLOAT * forward) + pictures(config, manifest) + 3 * parameters * FLOAT


def pictures(config: Config, manifest: Manifest) -> int:
    """Of showing clips, what is laid out as pictures, in host memory."""
    clip = manifest.frames * 3 * manifest.height * manifest.width
    return min(summary.LOOKED_AT, manifest.clips) * clip * 6


def saving(config: Config, *, parameters: int, promise: Promise) -> int:
    """A checkpoint: page after page, and the moments, which DeepSpeed gathers, tensor by tensor.

    Beside training, rank 0 copies what all ranks share, and rows that training overwrites are set
    aside.
    """
    if not config.checkpoint.beside:
        return 3 * parameters * FLOAT + promise.saving
    shared = 3 + bool(config.train.average)
    return (shared + 2) * parameters * FLOAT + promise.saving + promise.aside


def begin(config: Config, manifest: Manifest, *, decoded: int, rows: dict[str, int]) -> int:
    """Latents that begin at the footage: rank 0 looks at all of it; values go to every rank."""
    if config.begin.latents != "footage":
        return 0
    widths = {
        "static": config.latents.static, "transient": manifest.frames * config.latents.transient,
    }  # fmt: skip
    values = sum(rows[kind] * width for kind, width in widths.items())
    shrink = beginning.shrinking(manifest.clips, rows["transient"] * manifest.frames,
                                 pixels=3 * manifest.height * manifest.width)  # fmt: skip
    pixels = 3 * manifest.height * manifest.width // shrink**2
    moving = (manifest.clips + rows["transient"] * manifest.frames) * pixels
    chunk = min(beginning.CHUNK, manifest.clips) * manifest.frames * 3 * manifest.height**2
    analysis = FLOAT * (moving + chunk * (2 if shrink == 1 else 1.5))
    return max(3 * decoded, int(2 * decoded + analysis + 2 * FLOAT * values), 3 * FLOAT * values)


def searching(config: Config, manifest: Manifest, *, rows: int) -> int:
    """Directions of the whole dictionary; the method `gather` brings all of it to every rank."""
    low = config.latents.low_rank
    if not low.rank or low.scope != "dictionary" or low.method != "gather":
        return 0
    return 3 * 8 * rows * manifest.frames * config.latents.transient
