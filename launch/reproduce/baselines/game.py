"""An adversarial game over videos (Goodfellow et al. 2014): players, losses, and the loop.

The loop reads the same stream of clips as the main job and stops after the same wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from data_shards.stream import DataConfig, Stream, open_manifest
from trainer.devices import own_device
from trainer.objective import to_pixels

RATE = 2e-4
BETAS = (0.5, 0.999)
"""Adam's settings in both papers."""
BATCH = 8


class Critic(NamedTuple):
    """A discriminator, and what it sees of videos."""

    network: nn.Module
    view: Callable[[torch.Tensor, torch.Generator], torch.Tensor]


class Videos(NamedTuple):
    """What a generator makes: videos in [-1, 1], and a penalty of its own."""

    videos_BTCHW: torch.Tensor
    penalty: torch.Tensor


class Game(NamedTuple):
    """The players. `generator(count, draw)` returns `Videos`."""

    generator: nn.Module
    critics: tuple[Critic, ...]


def whole(videos_BTCHW: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """What a video critic sees: (B, C, T, H, W)."""
    return videos_BTCHW.transpose(1, 2)


def one_frame(videos_BTCHW: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """What an image critic sees: a random frame of each video, (B, C, H, W)."""
    clips, frames = videos_BTCHW.shape[:2]
    at_B = torch.randint(frames, (clips,), generator=draw)
    return videos_BTCHW[torch.arange(clips), at_B]


def image_critic(size: int, channels: int) -> nn.Module:
    """DCGAN's discriminator: halvings down to 4x4, then one number."""
    layers: list[nn.Module] = []
    before, width, side = 3, channels, size
    while side > 4:
        layers += [nn.Conv2d(before, width, 4, 2, 1), *_norm(layers, nn.BatchNorm2d, width)]
        before, width, side = width, 2 * width, side // 2
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 4), nn.Flatten(0))


def video_critic(size: int, channels: int) -> nn.Module:
    """The same over space and time; time is halved twice, then averaged."""
    layers: list[nn.Module] = []
    before, width, side = 3, channels, size
    while side > 4:
        stride = (2 if len(layers) < 5 else 1, 2, 2)
        layers += [nn.Conv3d(before, width, (3, 4, 4), stride, 1)]
        layers += _norm(layers[:-1], nn.BatchNorm3d, width)
        before, width, side = width, 2 * width, side // 2
    last = nn.Conv3d(before, 1, (1, 4, 4))
    return nn.Sequential(*layers, last, nn.AdaptiveAvgPool3d(1), nn.Flatten(0))


def _norm(layers: list[nn.Module], kind: type[nn.Module], width: int) -> list[nn.Module]:
    """No normalisation after the first layer, as in DCGAN."""
    return [*([kind(width)] if layers else []), nn.LeakyReLU(0.2)]


def gaussian(shape: Sequence[int], draw: torch.Generator, player: nn.Module) -> torch.Tensor:
    """N(0, 1) where a player is; the same numbers on every device."""
    return torch.randn(*shape, generator=draw).to(next(player.parameters()).device)


def dcgan_(module: nn.Module) -> None:
    """First weights of DCGAN: normal, sd 0.02."""
    for layer in module.modules():
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def play(
    game: Game, data: str, *, seed: int, minutes: float | None = None, steps: int | None = None
) -> int:
    """Train until the minutes or the steps are over, where ours would; returns the steps taken."""
    device = own_device()
    for player in (game.generator, *(critic.network for critic in game.critics)):
        player.to(device)
    opened = open_manifest(data, config=DataConfig(manifest=data))
    draw = torch.Generator().manual_seed(seed)
    adams = {
        id(player): torch.optim.Adam(player.parameters(), lr=RATE, betas=BETAS)
        for player in (game.generator, *(critic.network for critic in game.critics))
    }
    done = 0
    with Stream(opened, DataConfig(manifest=data), seed=seed, batch=BATCH) as stream:
        for step in _lasting(minutes, steps):
            real_BTCHW = to_pixels(next(stream).frames_BTCHW.to(device))
            fake = game.generator(len(real_BTCHW), draw)
            for critic in game.critics:
                shown = (critic.view(x, draw) for x in (real_BTCHW, fake.videos_BTCHW.detach()))
                told = [critic.network(x) for x in shown]
                _move(adams[id(critic.network)], _wrong(told[0], 1.0) + _wrong(told[1], 0.0))
            loss = fake.penalty
            for critic in game.critics:
                loss = loss + _wrong(critic.network(critic.view(fake.videos_BTCHW, draw)), 1.0)
            _move(adams[id(game.generator)], loss)
            done = step + 1
    return done


def _lasting(minutes: float | None, steps: int | None) -> Iterator[int]:
    start, step = time.monotonic(), 0
    while step < steps if steps else time.monotonic() - start < 60 * (minutes or 0):
        yield step
        step += 1


def _wrong(told_B: torch.Tensor, label: float) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(told_B, torch.full_like(told_B, label))


def _move(adam: torch.optim.Adam, loss: torch.Tensor) -> None:
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


@torch.inference_mode()
def sample(game: Game, count: int, *, seed: int) -> torch.Tensor:
    """Videos of a trained generator, (count, T, 3, H, W) in [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    game.generator.eval()
    counts = [len(part) for part in torch.arange(count).split(BATCH)]
    return torch.cat([game.generator(n, draw).videos_BTCHW.cpu() for n in counts])
