"""Statistics of VGG16 features of videos: the motion of MCS, and Gaussians for Frechet distances.

One pass over a few frames serves all of them. MCS looks at first and last frames by its definition,
since consecutive differences telescope. The Frechet distances look at three pairs of neighbouring
frames (first, middle, last) of at most `MOST` videos: frames of a video say nearly the same thing,
and all of them would cost three times as much.

Shapes: `B` videos, `F` frames that are looked at, `K` features of a frame, `C` their channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from trainer import render
from trainer.distances import CHANNELS
from trainer.frechet import Gaussian, frechet_distance, gaussian_of
from trainer.scores import MotionMean
from trainer.vgg import Vgg, features

MOST = 48
"""Videos for the Frechet distances, which grow where videos are fewer."""
FRAMES = (
    "squared Frechet distance of relu3_3, each frame a mean over space; of the first, middle and "
    "last pair of neighbouring frames, of as many videos as there are real ones, evenly spread, at "
    f"most {MOST}; not FID"
)
CHANGES = "the same of the differences of these pairs; not FVD"


class Statistics(NamedTuple):
    """What is known of the features of videos."""

    motion_K: torch.Tensor
    """Motion feature f of all videos (Sec. 4.2), float64."""
    frames: Gaussian
    """Of single frames, each a mean over space."""
    changes: Gaussian
    """Of the differences of neighbouring frames."""


def pairs_of(frames: int) -> list[int]:
    """First frames, from 0, of the pairs of neighbours that are looked at; at least two frames."""
    return sorted({0, (frames - 2) // 2, frames - 2})


def statistics_of(vgg: Vgg, videos_BTHWC: np.ndarray, *, most: int = MOST) -> Statistics:
    """Statistics of uint8 videos; the Frechet distances' of at most `most`, evenly spread."""
    frames, pairs = videos_BTHWC.shape[1], pairs_of(videos_BTHWC.shape[1])
    at = sorted({frame for first in pairs for frame in (first, first + 1)})
    chosen = render.spread(min(most, MOST), len(videos_BTHWC))
    others = sorted(set(range(len(videos_BTHWC))) - set(chosen))
    running, codes = MotionMean(), []
    for found_BFK in _features(vgg, videos_BTHWC, chosen, at):
        running.update(found_BFK[:, [0, -1]])
        codes.append(found_BFK.unflatten(2, (CHANNELS, -1)).mean(dim=3))
    for found_BFK in _features(vgg, videos_BTHWC, others, [0, frames - 1]):
        running.update(found_BFK)
    codes_BFC = torch.cat(codes)
    first = torch.tensor([at.index(frame) for frame in pairs])
    changes_BFC = codes_BFC[:, first + 1] - codes_BFC[:, first]
    return Statistics(
        running.mean() / (frames - 1),
        gaussian_of(codes_BFC.flatten(0, 1)),
        gaussian_of(changes_BFC.flatten(0, 1)),
    )


def distances(one: Statistics, other: Statistics) -> tuple[float, float]:
    """Squared Frechet distances of frames and of their differences."""
    return (
        frechet_distance(one.frames, other.frames),
        frechet_distance(one.changes, other.changes),
    )


def _features(
    vgg: Vgg, videos_BTHWC: np.ndarray, chosen: Sequence[int], at: Sequence[int]
) -> Iterator[torch.Tensor]:
    """relu3_3 of some frames of some videos, (B, F, K), a few videos at a time."""
    for start in range(0, len(chosen), render.CLIPS_AT_ONCE):
        part = chosen[start : start + render.CLIPS_AT_ONCE]
        yield features(vgg, torch.from_numpy(videos_BTHWC[np.ix_(part, at)]))
