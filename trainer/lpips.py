"""LPIPS (Zhang et al. 2018) with VGG16, from a file of weights that you have; nothing is fetched.

It is one safetensors file with torchvision's VGG16 convolutions (`features.N.weight`, `.bias`) of
`VGG16_Weights.IMAGENET1K_V1` and the five linear maps of LPIPS 0.1 (`lin0.model.1.weight` ...
`lin4.model.1.weight`). The weights that `trainer.vgg` wants have the same shapes and are others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from data_shards.errors import UserError
from trainer.pinned import read_pinned

LAYERS = (3, 8, 15, 22, 29)
"""relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 among `features`."""
WANTED = "(wanted: VGG16 of torchvision's IMAGENET1K_V1, and LPIPS 0.1's lin0 to lin4)"
WIDTHS = (64, 128, 256, 512, 512)
INPUT = "RGB -1..1 less LPIPS's shift over its scale, as IMAGENET1K_V1 wants it"
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Of pixels in [-1, 1], as the published weights want them."""


class Lpips(NamedTuple):
    """Network, weights of each layer's channels, and the file's fingerprint."""

    network: nn.Sequential
    weights: tuple[torch.Tensor, ...]
    sha256: str


def open_lpips(file: str | Path, *, sha256: str = "") -> Lpips:
    """Read the weights.

    Raises:
        UserError: not there, not of these shapes, or not of this SHA-256.
    """
    path = Path(file)
    data = read_pinned(path, sha256=sha256, setting="--lpips")
    try:
        found = load(data)
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--lpips {path}: not a readable safetensors file ({reason})") from None
    with torch.device("meta"):
        network = nn.Sequential(*list(torchvision.models.vgg16().features.children())[:30])
    for module in network:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    shapes = {f"features.{name}": value.shape for name, value in network.state_dict().items()}
    shapes |= {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(WIDTHS)}
    for name, shape in shapes.items():
        if name not in found or tuple(found[name].shape) != tuple(shape):
            raise UserError(f"--lpips {path}: lacks {name} of shape {tuple(shape)} {WANTED}")
    kept = {name: found[f"features.{name}"].float() for name in network.state_dict()}
    network.load_state_dict(kept, assign=True)
    weights = tuple(found[f"lin{i}.model.1.weight"].float().flatten() for i in range(len(WIDTHS)))
    digest = hashlib.sha256(data).hexdigest()
    return Lpips(network.eval().requires_grad_(False), weights, digest)


@torch.inference_mode()
def distances(lpips: Lpips, fake_XHWC: torch.Tensor, real_XHWC: torch.Tensor) -> torch.Tensor:
    """LPIPS of pairs of frames, float32 (X,); uint8 pixels at their own size; 0 where equal."""
    found = torch.zeros(len(fake_XHWC))
    layers = zip(_layers(lpips, fake_XHWC), _layers(lpips, real_XHWC), lpips.weights, strict=True)
    for fake_XCHW, real_XCHW, weight_C in layers:
        apart_XCHW = (_unit(fake_XCHW) - _unit(real_XCHW)).square()
        found += (apart_XCHW * weight_C.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
    return found


def _layers(lpips: Lpips, frames_XHWC: torch.Tensor) -> list[torch.Tensor]:
    pixels = frames_XHWC.permute(0, 3, 1, 2).float() / 127.5 - 1
    values = (pixels - pixels.new_tensor(SHIFT).view(3, 1, 1)) / pixels.new_tensor(SCALE).view(
        3, 1, 1
    )
    kept = []
    for index, module in enumerate(lpips.network):
        values = module(values)
        if index in LAYERS:
            kept.append(values)
    return kept


def _unit(values_XCHW: torch.Tensor) -> torch.Tensor:
    return values_XCHW / (values_XCHW.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
