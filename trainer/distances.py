"""Figures beyond the paper's, each only where it is asked for: LPIPS, FVD, VGG Frechet distances.

Part of `trainer.evaluate`. LPIPS compares training videos with their reconstructions, frame by
frame. The Frechet distances compare sets: the footage with random pairs of rows where those are
scored (`--random N`), else with the reconstructions. Those on VGG16 features are neither FID nor
FVD and are not called so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from trainer import fvd, lpips, render
from trainer.cards import Score, protocol
from trainer.cards import network as network_card
from trainer.frechet import frechet_distance, gaussian_of
from trainer.vgg import Vgg, features

if TYPE_CHECKING:
    from trainer.run import Run

CHANNELS = 256
"""Of relu3_3."""
LPIPS = "mean over videos and frames, LPIPS 0.1 with VGG16, frames at their own size"
FVD = "squared Frechet distance of I3D features (Unterthiner et al. 2019)"
FRAMES = "squared Frechet distance of relu3_3 of all frames, each a mean over space; not FID"
CHANGES = "the same of the differences of consecutive frames' features; not FVD"


class Wanted(NamedTuple):
    """Which figures were asked for."""

    lpips: lpips.Lpips | None = None
    fvd: fvd.Detector | None = None
    frechet: bool = False


NOTHING = Wanted()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Words of `trainer.evaluate` that ask for more figures."""
    parser.add_argument("--frechet", action="store_true", help="Frechet distances by VGG16")
    add_weights(parser)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Words that name the files of LPIPS and FVD."""
    parser.add_argument(
        "--lpips", metavar="FILE",
        help="LPIPS, by these weights (safetensors; VGG16 of IMAGENET1K_V1)",
    )  # fmt: skip
    parser.add_argument("--lpips-sha256", default="", metavar="HASH", help="which they must have")
    parser.add_argument("--fvd", metavar="FILE", help="FVD, by this TorchScript program")
    parser.add_argument("--fvd-sha256", default="", metavar="HASH", help="which it must have")
    parser.add_argument("--allow-code", action="store_true", help="run the program of --fvd")


def open_wanted(options: argparse.Namespace) -> Wanted:
    """Open the files that were named.

    Raises:
        UserError: one that is missing, another one, or not allowed.
    """
    return Wanted(
        lpips.open_lpips(options.lpips, sha256=options.lpips_sha256) if options.lpips else None,
        fvd.open_detector(
            options.fvd, sha256=options.fvd_sha256, allow_code=options.allow_code
        ) if options.fvd else None,
        options.frechet,
    )  # fmt: skip


def check_wanted(wanted: Wanted, *, vgg: Vgg | None, videos: Sequence[int]) -> None:
    """Refuse figures that cannot be had, before anything is scored.

    Args:
        wanted: which figures.
        vgg: for the Frechet distances by VGG16.
        videos: how many are compared: of footage, and random ones where there are any.

    Raises:
        UserError: too few videos, or no VGG16 weights where they are needed.
    """
    if wanted.frechet and not vgg:
        raise UserError("--frechet: needs VGG16 weights; give --vgg FILE, without --no-mcs")
    if (wanted.frechet or wanted.fvd) and min(videos) < 2:
        raise UserError("--frechet, --fvd: a covariance needs at least two videos on both sides")


def extra_scores(
    run: Run,
    clips: Sequence[int],
    wanted: Wanted,
    *,
    vgg: Vgg | None,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
    chosen: str,
    made: str = "",
) -> list[Score]:
    """The figures asked for.

    Args:
        run: an opened run.
        clips: training clips.
        wanted: which figures.
        vgg: for the Frechet distances by VGG16.
        pairs: static and transient rows of random videos; None: reconstructions stand for them.
        chosen: which videos `clips` are, for the card.
        made: which random pairs they are, for the card.

    Raises:
        UserError: too few videos, or no VGG16 weights where they are needed.
    """
    check_wanted(wanted, vgg=vgg, videos=[len(clips), *([len(pairs[0])] if pairs else [])])
    table = []
    if wanted.lpips:
        card = protocol(run, videos=chosen, definition=LPIPS, **{
            "input": lpips.INPUT, "weights SHA-256": wanted.lpips.sha256})  # fmt: skip
        value = _lpips(run, clips, wanted.lpips)
        table.append(Score("LPIPS", value, "", "lower", None, None, card))
    if not (wanted.frechet or wanted.fvd):
        return table
    made = made or (f"{len(pairs[0])} random pairs" if pairs else "reconstructions")
    chosen = f"footage: {chosen}; generated: {made}"
    if wanted.frechet and vgg:
        card = network_card(vgg)
        real, fake = (_vgg_codes(vgg, videos) for videos in _both(run, clips, pairs))
        for name, definition, codes in (
            ("VGG Frechet, frames", FRAMES, (real, fake)),
            ("VGG Frechet, changes", CHANGES, (real.diff(dim=1), fake.diff(dim=1))),
        ):
            value = _frechet(*(code.flatten(0, 1) for code in codes))
            about = protocol(run, videos=chosen, definition=definition, **card)
            table.append(Score(name, value, "", "lower", None, None, about))
    if wanted.fvd:
        network = wanted.fvd
        real, fake = (
            torch.cat([fvd.features(network, part) for part in videos])
            for videos in _both(run, clips, pairs)
        )
        about = protocol(run, videos=chosen, definition=FVD, **{
            "program SHA-256": network.sha256})  # fmt: skip
        table.append(Score("FVD", _frechet(real, fake), "", "lower", None, None, about))
    return table


def _frechet(real_NK: torch.Tensor, fake_NK: torch.Tensor) -> float:
    return frechet_distance(gaussian_of(real_NK), gaussian_of(fake_NK))


def _both(
    run: Run, clips: Sequence[int], pairs: tuple[np.ndarray, np.ndarray] | None
) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """Footage and generated videos, a few at a time."""
    rows = pairs or render.rows_of(run, clips)
    return (
        (render.real_clips(run, clips[part]) for part in _parts(len(clips))),
        (render.render(run, rows[0][part], rows[1][part]) for part in _parts(len(rows[0]))),
    )


def _parts(count: int) -> list[slice]:
    size = render.CLIPS_AT_ONCE
    return [slice(start, start + size) for start in range(0, count, size)]


def _vgg_codes(vgg: Vgg, videos: Iterator[np.ndarray]) -> torch.Tensor:
    """relu3_3 of every frame, mean over space: (B, T, 256)."""
    return torch.cat([
        features(vgg, torch.from_numpy(part)).unflatten(2, (CHANNELS, -1)).mean(dim=3)
        for part in videos
    ])  # fmt: skip


def _lpips(run: Run, clips: Sequence[int], network: lpips.Lpips) -> float:
    found = []
    for part in _parts(len(clips)):
        chosen = clips[part]
        fake, real = render.render_clips(run, chosen), render.real_clips(run, chosen)
        for one in zip(fake, real, strict=True):
            found.append(lpips.distances(network, *(torch.from_numpy(x) for x in one)).mean())
    return float(torch.stack(found).double().mean())
