"""VGAN (Vondrick et al. 2016), compact: m * foreground + (1 - m) * background."""

from __future__ import annotations

import torch
from torch import nn

from launch.reproduce.baselines.game import (
    Critic,
    Game,
    Videos,
    dcgan_,
    gaussian,
    video_critic,
    whole,
)

CODE = 100
SPARSE = 0.1
"""Weight of the L1 penalty on the mask."""


class Generator(nn.Module):
    """A 3D stream for the moving foreground and its mask, a 2D stream for the still background."""

    def __init__(self, *, frames: int, size: int, channels: int) -> None:
        super().__init__()
        self.frames = frames
        width, side, length = channels * size // 8, 4, -(-frames // 8)
        self.moving = nn.Sequential(nn.ConvTranspose3d(CODE, width, (length, 4, 4)))
        self.still = nn.Sequential(nn.ConvTranspose2d(CODE, width, 4))
        while side < size // 2:
            longer = length < frames
            for stream, norm in ((self.moving, nn.BatchNorm3d), (self.still, nn.BatchNorm2d)):
                stream.extend([norm(width), nn.ReLU()])
            self.moving.append(_larger(width, width // 2, longer=longer))
            self.still.append(nn.ConvTranspose2d(width, width // 2, 4, 2, 1))
            width, side, length = width // 2, 2 * side, length * (2 if longer else 1)
        self.moving.extend([nn.BatchNorm3d(width), nn.ReLU()])
        self.still.extend([nn.BatchNorm2d(width), nn.ReLU()])
        self.colour = _larger(width, 3, longer=length < frames)
        self.mask = _larger(width, 1, longer=length < frames)
        self.back = nn.ConvTranspose2d(width, 3, 4, 2, 1)

    def forward(self, count: int, draw: torch.Generator) -> Videos:
        """`count` videos of random codes, and the penalty on their masks."""
        code = gaussian((count, CODE), draw, self)
        moving = self.moving(code[..., None, None, None])
        mask = self.mask(moving)[:, :, : self.frames].sigmoid()
        front = self.colour(moving)[:, :, : self.frames].tanh()
        back = self.back(self.still(code[..., None, None])).tanh()[:, :, None]
        videos_BCTHW = mask * front + (1 - mask) * back
        return Videos(videos_BCTHW.transpose(1, 2), SPARSE * mask.mean())


def _larger(before: int, after: int, *, longer: bool) -> nn.ConvTranspose3d:
    """Twice as high and wide, and twice as long or as long as before."""
    if longer:
        return nn.ConvTranspose3d(before, after, 4, 2, 1)
    return nn.ConvTranspose3d(before, after, (3, 4, 4), (1, 2, 2), (1, 1, 1))


def vgan(*, frames: int, size: int, channels: int = 32) -> Game:
    """Generator and video critic; frames of at least 32 pixels."""
    generator = Generator(frames=frames, size=size, channels=channels)
    films = video_critic(size, channels)
    for player in (generator, films):
        dcgan_(player)
    return Game(generator, (Critic(films, whole),))
