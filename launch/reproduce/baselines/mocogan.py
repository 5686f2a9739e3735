"""MoCoGAN (Tulyakov et al. 2018), compact: one content code a video, motion codes from a GRU.

Unconditional: the categorical motion code and its info loss are left out.
"""

from __future__ import annotations

import torch
from torch import nn

from launch.reproduce.baselines.game import (
    Critic,
    Game,
    Videos,
    dcgan_,
    gaussian,
    image_critic,
    one_frame,
    video_critic,
    whole,
)

CONTENT = 50
MOTION = 10


class Generator(nn.Module):
    """z_C ~ N(0, I) once a video, e_t ~ N(0, I) through a GRU for z_M, a DCGAN frame by frame."""

    def __init__(self, *, frames: int, size: int, channels: int) -> None:
        super().__init__()
        self.frames = frames
        self.gru = nn.GRU(MOTION, MOTION, batch_first=True)
        width = channels * size // 8
        layers: list[nn.Module] = [nn.ConvTranspose2d(CONTENT + MOTION, width, 4)]
        side = 4
        while side < size // 2:
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1)]
            width, side = width // 2, 2 * side
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1)]
        self.image = nn.Sequential(*layers, nn.Tanh())

    def forward(self, count: int, draw: torch.Generator) -> Videos:
        """`count` videos of random codes."""
        shapes = (count, CONTENT), (1, count, MOTION), (count, self.frames, MOTION)
        content_BC, first_1BM, noise_BTM = (gaussian(s, draw, self) for s in shapes)
        motion_BTM, _ = self.gru(noise_BTM, first_1BM)
        content_BTC = content_BC[:, None].expand(-1, self.frames, -1)
        codes = torch.cat([content_BTC, motion_BTM], dim=2).flatten(0, 1)[..., None, None]
        images = self.image(codes).unflatten(0, (count, self.frames))
        return Videos(images, images.new_zeros(()))


def mocogan(*, frames: int, size: int, channels: int = 32) -> Game:
    """Generator, image critic and video critic."""
    generator = Generator(frames=frames, size=size, channels=channels)
    stills, films = image_critic(size, channels), video_critic(size, channels)
    for player in (generator, stills, films):
        dcgan_(player)
    return Game(generator, (Critic(stills, one_frame), Critic(films, whole)))
