"""FVD (Unterthiner et al. 2019): the Frechet distance of I3D features, by a TorchScript file.

A TorchScript file is a program. It is loaded only where its SHA-256 is given and matches, and only
with `--allow-code` (SECURITY.md). The file is the usual `i3d_torchscript.pt`: it takes videos
(B, C, T, H, W) in 0..255 and the keywords `rescale`, `resize`, `return_features`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_shards.errors import UserError
from trainer.pinned import read_pinned

VIDEOS_AT_ONCE = 8


class Detector(NamedTuple):
    """A loaded program, and its fingerprint."""

    network: torch.jit.ScriptModule
    sha256: str


def open_detector(file: str | Path, *, sha256: str, allow_code: bool) -> Detector:
    """Load the program that gives features of videos.

    Raises:
        UserError: not allowed, no SHA-256, another file than that of the SHA-256, no TorchScript.
    """
    path = Path(file)
    if not allow_code:
        raise UserError(f"--fvd {path}: is a program; give --allow-code if you trust its author")
    if not sha256:
        raise UserError(f"--fvd {path}: give --fvd-sha256, the SHA-256 of the file that you trust")
    data = read_pinned(path, sha256=sha256, setting="--fvd")
    try:
        network = torch.jit.load(io.BytesIO(data), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"--fvd {path}: not a TorchScript file ({reason})") from None
    return Detector(network.eval(), sha256.lower())


@torch.inference_mode()
def features(detector: Detector, videos_BTHWC: np.ndarray) -> torch.Tensor:
    """Features of uint8 videos, float64 (B, K).

    Raises:
        UserError: the program does not take such videos.
    """
    parts = []
    for start in range(0, len(videos_BTHWC), VIDEOS_AT_ONCE):
        part = torch.from_numpy(videos_BTHWC[start : start + VIDEOS_AT_ONCE])
        videos_BCTHW = part.permute(0, 4, 1, 2, 3).float().contiguous()
        try:
            found = detector.network(videos_BCTHW, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:160]
            raise UserError(f"--fvd: the program does not take these videos ({reason})") from None
        parts.append(found.double().flatten(1))
    return torch.cat(parts)
