"""PSNR and SSIM under the best shift in time: the phase of a motion is not what is judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer import scores

MOST = 4
"""Frames of shift either way."""


class Shifted(NamedTuple):
    """The best agreement of two videos over shifts, and that shift."""

    psnr: float
    ssim: float
    shift: int


def best_shift(fake_THWC: np.ndarray, real_THWC: np.ndarray, *, most: int = MOST) -> Shifted:
    """Compare the overlap of two videos at every shift of at most `most` frames.

    Shift s sets frame t + s of `fake` against frame t of `real`; at least half of them overlap.
    """
    frames = len(real_THWC)
    most = min(most, frames // 2)
    found = []
    for shift in range(-most, most + 1):
        fake = fake_THWC[max(0, shift) : frames + min(0, shift)]
        real = real_THWC[max(0, -shift) : frames - max(0, shift)]
        psnr = min(float(scores.video_psnr(fake[None], real[None])[0]), 100.0)
        found.append((psnr, -abs(shift), shift, fake, real))
    psnr, _, shift, fake, real = max(found, key=lambda row: row[:3])
    return Shifted(psnr, float(scores.ssim(fake, real).mean()), shift)


def nearest_window(
    real_THWC: np.ndarray, others_NTHWC: np.ndarray, *, most: int = MOST
) -> tuple[int, float]:
    """Which of other videos comes nearest in PSNR, each under its own best shift (`best_shift`);
    and that PSNR, dB, at most 100."""
    frames, real = len(real_THWC), real_THWC.astype(np.float32)
    most, least = min(most, frames // 2), np.full(len(others_NTHWC), np.inf)
    for shift in range(-most, most + 1):
        others = others_NTHWC[:, max(0, shift) : frames + min(0, shift)].astype(np.float32)
        apart = (others - real[max(0, -shift) : frames - max(0, shift)]) ** 2
        least = np.minimum(least, apart.mean(axis=(1, 2, 3, 4), dtype=np.float64))
    at = int(least.argmin())
    return at, min(float(10 * np.log10(255.0**2 / max(least[at], 1e-12))), 100.0)


def nearest_video(real_THWC: np.ndarray, others_NTHWC: np.ndarray, *, most: int = MOST) -> Shifted:
    """The best PSNR that any of other videos achieves, and the best SSIM that any does, each video
    under its own best shift of the same ones; the shift is that of the PSNR."""
    found = [best_shift(other, real_THWC, most=most) for other in others_NTHWC]
    return max(found, key=lambda one: one.psnr)._replace(ssim=max(one.ssim for one in found))
