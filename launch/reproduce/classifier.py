"""A small classifier of clips, trained on real footage, that judges generated ones.

`identity` looks at the frames, `action` at the differences of grey frames, so that neither can read
the other's cue. Both are the same little network with a mean over time. Labels are rows of the
manifest's tables.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SIDE = 32
"""Pixels at which it looks."""
BATCH = 16
SHIFT = 2
"""Pixels by which training clips are moved at random."""


class Judge(NamedTuple):
    """A trained classifier: what it looks at, and its network."""

    kind: str
    network: nn.Module


def look(frames_BTHWC: np.ndarray, kind: str) -> torch.Tensor:
    """What a judge of a kind sees: float32 (B, T or T - 1, channels, SIDE, SIDE)."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames_BTHWC)).float().div(127.5).sub(1)
    videos, frames = pixels.shape[:2]
    small = functional.interpolate(
        pixels.movedim(-1, 2).flatten(0, 1), size=(SIDE, SIDE), mode="area"
    ).unflatten(0, (videos, frames))
    if kind == "identity":
        return small
    grey = small.mean(dim=2, keepdim=True)
    return 4 * (grey[:, 1:] - grey[:, :-1])


class Network(nn.Module):
    """Three strided convolutions over each frame, a convolution over time, a mean, a linear map."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths, layers = (channels, 16, 32, 64), []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.ReLU()]
        self.frames = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten())
        features = 64 * (SIDE // 16) ** 2
        self.time = nn.Sequential(nn.Conv1d(features, 64, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, clips_BTCHW: torch.Tensor) -> torch.Tensor:
        """Scores (B, classes)."""
        videos, frames = clips_BTCHW.shape[:2]
        codes = self.frames(clips_BTCHW.flatten(0, 1)).unflatten(0, (videos, frames))
        return self.head(self.time(codes.mT).mean(dim=2))


def train_judge(
    frames_NTHWC: np.ndarray, labels_N: np.ndarray, kind: str, *, classes: int, steps: int,
    seed: int = 0,
) -> Judge:  # fmt: skip
    """Train a judge on real clips, which are moved by a few pixels at random.

    Clips are drawn so that every label comes up equally often.
    """
    seen = look(frames_NTHWC, kind)
    labels = torch.as_tensor(labels_N)
    weight_N = 1 / torch.bincount(labels, minlength=classes)[labels].double()
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(seen.shape[2], classes)
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        at = torch.multinomial(weight_N, BATCH, replacement=True, generator=draw)
        offset = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=draw).tolist()
        moved = torch.roll(seen[at], shifts=offset, dims=(-2, -1))
        loss = functional.cross_entropy(network(moved), labels[at])
        adam.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return Judge(kind, network.eval())


@torch.inference_mode()
def judged(judge: Judge, frames_BTHWC: np.ndarray) -> np.ndarray:
    """The label that a judge gives each clip, int64 (B,)."""
    return judge.network(look(frames_BTHWC, judge.kind)).argmax(dim=1).numpy()


def accuracy(judge: Judge, frames_BTHWC: np.ndarray, labels_B: np.ndarray) -> float:
    """Share of clips with the right label."""
    return float((judged(judge, frames_BTHWC) == labels_B).mean())
