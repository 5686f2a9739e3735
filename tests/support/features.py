"""A feature network that needs no file: VGG16 up to relu3_3, untrained."""

from __future__ import annotations

import torch

from trainer.vgg import Vgg


def untrained_vgg() -> Vgg:
    """The same network each time; its fingerprint is made up."""
    widths = [(3, 64), (64, 64), 0, (64, 128), (128, 128), 0, (128, 256), (256, 256), (256, 256)]
    layers: list[torch.nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for width in widths:
            if width:
                layers += [torch.nn.Conv2d(*width, 3, padding=1), torch.nn.ReLU()]  # pyright: ignore
            else:
                layers.append(torch.nn.MaxPool2d(2))
    return Vgg(torch.nn.Sequential(*layers).eval(), "f" * 64)
