"""VGG16 up to relu3_3 (Simonyan and Zisserman 2014), the features that MCS compares.

Weights come from a safetensors file (torchvision's key names, `features.N.weight`) or from
torchvision's download of the original Oxford weights, `VGG16_Weights.IMAGENET1K_FEATURES`, whose
input is RGB 0..255 less its mean. `IMAGENET1K_V1` has the same shapes, another scale of its input,
and gives other figures; it cannot be told apart by its shapes, so the SHA-256 is on every card. No
other part of the project uses the web.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models import VGG16_Weights

from data_shards.errors import UserError
from trainer.devices import own_device
from trainer.scores import MotionMean

LAYERS = 16
"""`features[15]` is relu3_3."""
MEAN_RGB = (123.68, 116.779, 103.939)
ENVIRONMENT = "NAVSYNTH_VGG16"
WANTED = "(of torchvision's IMAGENET1K_FEATURES)"


class Vgg(NamedTuple):
    """The network, and the weights' fingerprint for the protocol card."""

    network: nn.Module
    sha256: str


def open_vgg(file: str | Path | None = None) -> Vgg:
    """Load the network from `file`, else the file named by $NAVSYNTH_VGG16, else by download; onto
    the GPU where there is one.

    Raises:
        UserError: a missing, unreadable or unsuitable file; a download that fails.
    """
    chosen = str(file or os.environ.get(ENVIRONMENT, ""))
    path = Path(chosen) if chosen else _download()
    try:
        weights = load_file(path) if chosen else _downloaded_weights()
        digest = _digest(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a readable safetensors file of VGG16 weights {WANTED}: {reason}"
        ) from None
    return Vgg(_network(weights, path).to(own_device()), digest)


@torch.inference_mode()
def features(vgg: Vgg, frames_BTHWC: torch.Tensor) -> torch.Tensor:
    """relu3_3 of every frame, flattened, in host memory: float32 (B, T, 256 * H/4 * W/4).

    Args:
        vgg: from `open_vgg`.
        frames_BTHWC: uint8 RGB 0..255, any device; they are fed at their own size.
    """
    device = next(vgg.network.parameters()).device
    videos, frames = frames_BTHWC.shape[:2]
    pixels_XHWC = frames_BTHWC.to(device).flatten(0, 1).float()
    centred_XHWC = pixels_XHWC - pixels_XHWC.new_tensor(MEAN_RGB)
    relu_XCHW = vgg.network(centred_XHWC.permute(0, 3, 1, 2))
    return relu_XCHW.contiguous().flatten(1).cpu().unflatten(0, (videos, frames))


def motion_of(vgg: Vgg, videos_BTHWC: torch.Tensor, *, batch: int = 16) -> torch.Tensor:
    """Motion feature f of videos (Sec. 4.2), float64 (K,), `batch` videos at a time.

    Consecutive differences telescope, so only first and last frames go through the network.
    """
    if videos_BTHWC.shape[1] < 2:
        raise ValueError(f"motion needs two frames, got videos of {videos_BTHWC.shape[1]}")
    running, pairs = MotionMean(), videos_BTHWC.shape[1] - 1
    for part_BTHWC in videos_BTHWC.split(batch):
        ends_B2K = features(vgg, part_BTHWC[:, [0, pairs]])
        running.update(ends_B2K)
    return running.mean() / pairs


def _network(weights: dict[str, torch.Tensor], path: Path) -> nn.Module:
    with torch.device("meta"):
        network = nn.Sequential(*list(torchvision.models.vgg16().features.children())[:LAYERS])
    wanted = {f"features.{name}": name for name in network.state_dict()}
    missing = sorted(set(wanted) - set(weights))
    if missing:
        raise UserError(f"{path}: lacks VGG16 weights such as {missing[0]} {WANTED}")
    chosen = {name: weights[key].float() for key, name in wanted.items()}
    for name, tensor in network.state_dict().items():
        if chosen[name].shape != tensor.shape:
            raise UserError(
                f"{path}: features.{name} is not of VGG16's shape {tuple(tensor.shape)}"
            )
    network.load_state_dict(chosen, assign=True)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _download() -> Path:
    """Where torchvision keeps the file; fetched if it is not there yet."""
    name = VGG16_Weights.IMAGENET1K_FEATURES.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        print(f"VGG16: downloading to {path}, once", file=sys.stderr, flush=True)
        _downloaded_weights()
    # The name ends in the first digits of the file's SHA-256, which torch checks only on arrival.
    elif not _digest(path).startswith(path.stem.rpartition("-")[2]):
        raise UserError(f"{path}: is damaged; delete it, and it is downloaded again")
    return path


def _downloaded_weights() -> dict[str, torch.Tensor]:
    try:
        state = VGG16_Weights.IMAGENET1K_FEATURES.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise UserError(
            f"VGG16: the download failed ({' '.join(str(error).split())}); "
            f"set {ENVIRONMENT} to a safetensors file with its weights {WANTED}"
        ) from None
    return dict(state)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
