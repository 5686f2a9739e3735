"""Scores of generated videos: PSNR, SSIM, FCS and MCS (Sec. 4.2). Pure functions, no networks.

Shapes: `X` any leading dimensions, `B` videos, `T` frames, `H W C` uint8 pixels 0..255, `K`
features of a frame. Compare figures of one protocol only: MCS depends on the feature network's
scale, the frame size, and the videos chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch


def psnr(fake_XHWC: np.ndarray, real_XHWC: np.ndarray) -> np.ndarray:
    """PSNR of every frame in dB, float64, shape X; infinite where the two are equal."""
    return _decibel(_squared_error(fake_XHWC, real_XHWC).mean(axis=(-3, -2, -1)))


def video_psnr(fake_BTHWC: np.ndarray, real_BTHWC: np.ndarray) -> np.ndarray:
    """PSNR of every video in dB (B,): of the mean squared error over all its frames."""
    return _decibel(_squared_error(fake_BTHWC, real_BTHWC).mean(axis=(-4, -3, -2, -1)))


def ssim(fake_XHWC: np.ndarray, real_XHWC: np.ndarray) -> np.ndarray:
    """SSIM of every frame (scikit-image, window 7, over colour channels), float64, shape X."""
    fake_XHWC, real_XHWC = np.broadcast_arrays(fake_XHWC, real_XHWC)
    leading = fake_XHWC.shape[:-3]
    from skimage.metrics import structural_similarity  # takes a second, and a training needs none

    pairs = zip(
        fake_XHWC.reshape(-1, *fake_XHWC.shape[-3:]),
        real_XHWC.reshape(-1, *real_XHWC.shape[-3:]),
        strict=True,
    )
    values = [
        structural_similarity(fake, real, channel_axis=-1, data_range=255) for fake, real in pairs
    ]
    return np.asarray(values, np.float64).reshape(leading)


def fcs(videos_BTHWC: np.ndarray) -> np.ndarray:
    """Frame consistency of every video (B,): mean SSIM of its frames with its first one.

    The first frame itself counts, as "all frames" of Sec. 4.2 says; a frozen video scores 1.0.
    """
    return ssim(videos_BTHWC, videos_BTHWC[:, :1]).mean(axis=1)


class Consistency(NamedTuple):
    """FCS with what it has to be read against: higher is better only up to the bound."""

    score: float
    bound: float
    """The same figure on the real videos."""
    distance: float
    """|score - bound|."""


def consistency(fake_BTHWC: np.ndarray, real_BTHWC: np.ndarray) -> Consistency:
    """FCS of generated videos beside the bound of the real ones (the two may differ in number)."""
    score, bound = (float(fcs(videos).mean()) for videos in (fake_BTHWC, real_BTHWC))
    return Consistency(score, bound, abs(score - bound))


class MotionMean:
    """Running mean, in float64, of consecutive frame-feature differences over batches of videos.

    Each video weighs the same. The mean over a video's consecutive pairs telescopes to (last -
    first) / (T - 1), which is what is computed.
    """

    def __init__(self) -> None:
        self._sum_K: torch.Tensor | None = None
        self._videos = 0

    def update(self, features_BTK: torch.Tensor) -> None:
        """Add a batch of videos of at least two frames each."""
        frames = features_BTK.shape[1]
        if frames < 2:
            raise ValueError(f"motion needs two frames, got videos of {frames}")
        change_BK = features_BTK[:, -1].double() - features_BTK[:, 0].double()
        batch_K = change_BK.sum(dim=0) / (frames - 1)
        self._sum_K = batch_K if self._sum_K is None else self._sum_K + batch_K
        self._videos += features_BTK.shape[0]

    def mean(self) -> torch.Tensor:
        """The motion feature f, float64 (K,)."""
        if self._sum_K is None or not self._videos:
            raise ValueError("motion of no videos")
        return self._sum_K / self._videos


def motion_feature(features_BTK: torch.Tensor) -> torch.Tensor:
    """f of Sec. 4.2: mean over videos and consecutive pairs of the feature difference (K,)."""
    running = MotionMean()
    running.update(features_BTK)
    return running.mean()


def mcs(real_K: torch.Tensor, fake_K: torch.Tensor) -> float:
    """Relative motion consistency, log10 ||f - f_hat||^2: lower is better; minus infinity if equal.

    (The paper prints 0.0 as the bound, which the formula does not give.)
    """
    return float((real_K.double() - fake_K.double()).square().sum().log10())


def _squared_error(fake: np.ndarray, real: np.ndarray) -> np.ndarray:
    if fake.shape != real.shape:
        raise ValueError(f"frames of {fake.shape} cannot be compared with {real.shape}")
    return np.square(fake.astype(np.float64) - real.astype(np.float64))


def _decibel(error: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / error)
