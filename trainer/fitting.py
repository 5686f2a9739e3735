"""The search of `trainer.fit`: latents of new videos, networks frozen, many videos in one batch.

Every video starts from several latents, and after a quarter of the steps only its best start goes
on. The run's own l_rec on randomly drawn frames, Adam with a step count per row, and after every
step codes go back into the unit ball (Sec. 3.3). `V` videos, `K` starts, `X` = V x K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from trainer import objective, render, rowopt, schedule
from trainer.pictures import to_pixels
from trainer.progress import progress
from trainer.projections import unit_ball_
from trainer.run import Run

VIDEOS_AT_ONCE = 32
MOST_COMPARED = 4096
"""Training clips, evenly spread, among which the nearest one is looked for."""
DECODED = 2**28
"""Bytes of float64 pixels that are held against as many others at a time."""
HIGHEST_DB = 100.0
GAIN_DB = 0.02
"""A look that finds less than this is no progress."""


@dataclass(frozen=True)
class FitConfig:
    """How latents are looked for."""

    steps: int = 600
    """Most steps of each video."""
    starts: int = 3
    """Starts of each video: the nearest training video's rows, the mean rows, then random rows."""
    seed: int = 0
    """Of the random rows and of the frames drawn."""
    rate: float = 0.02
    """Adam's rate at the beginning; it falls to zero along a cosine."""
    frames: int = 4
    """Frames drawn of each video and step; 0: all of them."""
    check: int = 25
    """Steps between two looks at all frames; the best latents seen so are kept."""
    patience: int = 6
    """Looks in a row without progress after which a batch is done."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in fields(self):
            least = {"seed": 0, "frames": 0, "rate": 1e-9}.get(field.name, 1)
            if getattr(self, field.name) < least:
                raise UserError(f"--{field.name}: {getattr(self, field.name)} is below {least}")


class Rows(NamedTuple):
    """Latents under way, X of them: values, Adam's moments, and the best that were seen."""

    states: tuple[rowopt.State, rowopt.State]
    best_XS: torch.Tensor
    best_XTM: torch.Tensor
    psnr_X: torch.Tensor

    def take(self, index: torch.Tensor) -> Rows:
        """Some of the rows."""
        states = [{k: v[index].clone() for k, v in state.items()} for state in self.states]
        return Rows((states[0], states[1]), *(x[index].clone() for x in self[1:]))


class Found(NamedTuple):
    """The best latents of each video, and its PSNR with them in dB, as shown."""

    static_VS: torch.Tensor
    transient_VTM: torch.Tensor
    psnr_V: torch.Tensor


class Nearest(NamedTuple):
    """The training clip that comes nearest to each new video."""

    clip_V: np.ndarray
    psnr_V: np.ndarray
    compared: str
    """Out of how many training clips, `K of N`."""


def nearest_clips(run: Run, frames_VTCHW: torch.Tensor) -> Nearest:
    """The nearest of at most `MOST_COMPARED` training clips, evenly spread, to each video.

    Raises:
        UserError: the footage is damaged; under `data.on_damage=quarantine`, all of it.
    """
    total = run.manifest.clips
    clips = run.sound(render.spread(MOST_COMPARED, total))
    if not clips:
        raise UserError(f"{run.manifest.name}: every training clip that is looked at is damaged")
    return nearest_of(run, frames_VTCHW, clips, compared=f"{len(clips)} of {total}")


def nearest_of(
    run: Run, frames_VTCHW: torch.Tensor, clips: Sequence[int], *, compared: str
) -> Nearest:
    """The nearest of some training clips to each video, by squared error over all its pixels.

    Each clip is read once, and a few videos at a time are held against a few clips, so that memory
    stays small whatever their number.
    """
    videos, pixels = len(frames_VTCHW), frames_VTCHW[0].numel()
    at_once = max(1, min(64, DECODED // (8 * pixels)))
    least_V = torch.full((videos,), torch.inf, dtype=torch.float64)
    clip_V = torch.zeros(videos, dtype=torch.int64)
    for some in progress(torch.tensor(clips).split(at_once), label="nearest training videos"):
        real = run.real(some)
        for part in torch.arange(videos).split(at_once):
            error, at = squared_distances(frames_VTCHW[part], real).min(dim=1)
            nearer = error < least_V[part]
            clip_V[part] = torch.where(nearer, some[at], clip_V[part])
            least_V[part] = torch.where(nearer, error, least_V[part])
    return Nearest(clip_V.numpy(), decibel(least_V / pixels).numpy(), compared)


def squared_distances(first_VX: torch.Tensor, second_NX: torch.Tensor) -> torch.Tensor:
    """Squared distance of every video to every other one, float64 (V, N); exact for uint8."""
    first, second = (x.flatten(1).to(torch.float64) for x in (first_VX, second_NX))
    norms = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    return norms - 2 * first @ second.T


def decibel(error: torch.Tensor) -> torch.Tensor:
    """PSNR in dB of mean squared errors of 8-bit pixels, at most 100."""
    return (10 * torch.log10(255.0**2 / error.double().clamp_min(1e-12))).clamp_max(HIGHEST_DB)


def start_rows(run: Run, near: Nearest, *, config: FitConfig) -> Rows:
    """First latents of each video, `starts` of each in a row: X = V x starts."""
    trained = render.trained_rows(run)
    draw = np.random.default_rng(config.seed)
    videos, count = len(near.clip_V), config.starts
    own = render.rows_of(run, near.clip_V)
    kinds = []
    for kind, (own_V, rows_N) in enumerate(zip(own, trained, strict=True)):
        drawn_VK = draw.choice(rows_N, size=(videos, count))
        drawn_VK[:, 0] = own_V
        values_X = _values(run, kind, drawn_VK.reshape(-1))
        if count > 1:
            sample = rows_N[render.spread(MOST_COMPARED, len(rows_N))]
            values_X.view(videos, count, *values_X.shape[1:])[:, 1] = _values(
                run, kind, sample
            ).mean(dim=0)
        kinds.append(values_X)
    states = [_state(values) for values in kinds]
    psnr_X = torch.full((videos * count,), -torch.inf, dtype=torch.float64)
    return Rows((states[0], states[1]), kinds[0].clone(), kinds[1].clone(), psnr_X)


def _values(run: Run, kind: int, rows: np.ndarray) -> torch.Tensor:
    """Rows of one table (0 static, 1 transient)."""
    wanted = torch.as_tensor(np.asarray(rows, np.int64))
    other = torch.zeros_like(wanted)
    found = run.latents(*((wanted, other) if kind == 0 else (other, wanted)))[kind]
    layout = run.config.latents
    codes = found[..., : (layout.static, layout.transient)[kind]]  # without labels
    return codes.to(run.networks.device, copy=True)


def _state(values: torch.Tensor) -> rowopt.State:
    rule = rowopt.RULES["adam"]
    moments = {name: torch.zeros_like(values) for name in rule.element_fields}
    counts = {name: values.new_zeros(len(values), dtype=torch.int64) for name in rule.row_fields}
    return {"value": values.clone(), **moments, **counts}


def fit(run: Run, frames_VTCHW: torch.Tensor, *, config: FitConfig) -> tuple[Found, Nearest]:
    """Latents of new videos.

    Args:
        run: an opened run; its networks and dictionary stay as they are.
        frames_VTCHW: footage, uint8.
        config: how long, from where.

    Returns:
        The best latents of each video, and the nearest training clips.
    """
    near = nearest_clips(run, frames_VTCHW)
    # cuDNN differentiates a recurrence in training mode only; this one has no dropout to differ by.
    run.networks.motion.train()
    done = []
    parts = torch.arange(len(frames_VTCHW)).split(VIDEOS_AT_ONCE)
    for part in parts:
        at = part.numpy()
        picked = near._replace(clip_V=near.clip_V[at], psnr_V=near.psnr_V[at])
        done.append(_fit_part(run, frames_VTCHW[part], picked, config))
    return Found(*(torch.cat([rows[i] for rows in done]).cpu() for i in (1, 2, 3))), near


def _fit_part(run: Run, frames_VTCHW: torch.Tensor, near: Nearest, config: FitConfig) -> Rows:
    generator = torch.Generator().manual_seed(config.seed)
    rows, count = start_rows(run, near, config=config), config.starts
    trial = max(1, config.steps // 4) if count > 1 else 0
    if trial:
        repeated = frames_VTCHW.repeat_interleave(count, dim=0)
        rows = _descend(run, repeated, rows, range(trial), config, generator)
        best_V = rows.psnr_X.view(-1, count).argmax(dim=1)
        rows = rows.take(torch.arange(len(best_V)) * count + best_V)
    return _descend(run, frames_VTCHW, rows, range(trial, config.steps), config, generator)


def _descend(
    run: Run, frames_XTCHW: torch.Tensor, rows: Rows, steps: range, config: FitConfig,
    generator: torch.Generator,
) -> Rows:  # fmt: skip
    """Take steps; returns the rows with the best latents seen at a look."""
    rows, stale = _look(run, frames_XTCHW, rows), 0
    for step in progress(steps, label="fitting"):
        factor = schedule.rate_factor(step / config.steps, curve="cosine")
        _step_(run, frames_XTCHW, rows.states, rate=config.rate * factor, draw=config.frames,
               generator=generator)  # fmt: skip
        if (step + 1 - steps.start) % config.check and step + 1 < steps.stop:
            continue
        before = rows.psnr_X
        rows = _look(run, frames_XTCHW, rows)
        stale = 0 if bool((rows.psnr_X > before + GAIN_DB).any()) else stale + 1
        if stale >= config.patience:
            break
    return rows


def _step_(
    run: Run, frames_XTCHW: torch.Tensor, states: tuple[rowopt.State, ...], *, rate: float,
    draw: int, generator: torch.Generator,
) -> None:  # fmt: skip
    """One step of every row; a row's gradient is that of its own loss alone."""
    values = [state["value"].requires_grad_(True) for state in states]
    videos, frames = frames_XTCHW.shape[:2]
    index_XF = torch.rand(videos, frames, generator=generator).argsort(dim=1)[:, : draw or frames]
    real = frames_XTCHW[torch.arange(videos)[:, None], index_XF]
    device, layout = values[0].device, run.config.latents
    with torch.enable_grad():
        fake, _ = run.networks(*values, index_XF.to(device))
        loss_XF = objective.REGRESSIONS[run.config.loss.regression](
            fake, objective.to_pixels(real.to(device)), run.config.loss.levels
        )
        grads = torch.autograd.grad(loss_XF.mean(dim=1).sum(), values)
    with torch.no_grad():
        for state, grad in zip(states, grads, strict=True):
            state["value"].requires_grad_(False)
            rowopt.adam_(state, grad, rate=rate, betas=layout.betas, eps=layout.epsilon)
            unit_ball_(state["value"])


@torch.no_grad()
def _look(run: Run, frames_XTCHW: torch.Tensor, rows: Rows) -> Rows:
    """PSNR of all frames as shown; where it is the best so far, the latents are kept."""
    static, transient = (state["value"].detach() for state in rows.states)
    found = []
    for part in torch.arange(len(static)).split(render.CLIPS_AT_ONCE):
        images, _ = run.networks(static[part], transient[part])
        shown = torch.from_numpy(to_pixels(images)).movedim(-1, -3)[:, :, : frames_XTCHW.shape[2]]
        error = (shown.double() - frames_XTCHW[part].double()).square().flatten(1).mean(dim=1)
        found.append(decibel(error))
    psnr_X = torch.cat(found)
    better = psnr_X > rows.psnr_X
    keep = better.to(static.device)
    return Rows(
        rows.states,
        torch.where(keep[:, None], static, rows.best_XS),
        torch.where(keep[:, None, None], transient, rows.best_XTM),
        torch.maximum(psnr_X, rows.psnr_X),
    )
