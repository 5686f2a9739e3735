"""Scores in closed form and against loops."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from trainer import scores


def videos(batch=2, frames=3, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, frames, size, size, 3), np.uint8)


def test_psnr_equals_the_library():
    """Per frame what scikit-image says; per video of the mean error; infinite for equals."""
    fake, real = videos(), videos(seed=1)
    frame_BT, video_B = scores.psnr(fake, real), scores.video_psnr(fake, real)
    for b in range(2):
        for t in range(3):
            wanted = peak_signal_noise_ratio(real[b, t], fake[b, t], data_range=255)
            assert frame_BT[b, t] == pytest.approx(wanted)
        wanted = peak_signal_noise_ratio(real[b], fake[b], data_range=255)
        assert video_B[b] == pytest.approx(wanted)
    assert scores.psnr(fake, fake).min() == math.inf


def test_psnr_of_one_grey_level():
    """A uniform error of one level is 48.13 dB."""
    real = np.full((1, 2, 8, 8, 3), 100, np.uint8)
    assert scores.video_psnr(real + 1, real)[0] == pytest.approx(20 * math.log10(255))


def test_psnr_refuses_other_shapes():
    """Broadcasting would compare the wrong frames."""
    with pytest.raises(ValueError, match="compared"):
        scores.psnr(videos(frames=1), videos())


def test_fcs_is_the_mean_ssim_with_the_first_frame():
    """Every frame counts, the first one too; one figure a video."""
    clips = videos(batch=2, frames=4)
    for b, score in enumerate(scores.fcs(clips)):
        each = [
            structural_similarity(clips[b, 0], clips[b, t], channel_axis=-1, data_range=255)
            for t in range(4)
        ]
        assert score == pytest.approx(np.mean(each))


def test_a_frozen_video_scores_one():
    """Which is why FCS is read against the bound of the real videos."""
    frozen, real = np.repeat(videos(frames=1), 4, axis=1), videos(frames=4, batch=3)
    assert scores.fcs(frozen) == pytest.approx([1.0, 1.0])
    found = scores.consistency(frozen, real)
    assert found.score == pytest.approx(1.0)
    assert found.bound == pytest.approx(scores.fcs(real).mean())
    assert found.distance == pytest.approx(1.0 - found.bound)


def test_motion_feature_equals_the_loop():
    """The mean over videos and consecutive pairs, whether in one batch or streamed."""
    features = torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(0))
    steps = [features[b, t + 1] - features[b, t] for b in range(5) for t in range(3)]
    wanted = torch.stack(steps).double().mean(dim=0)
    torch.testing.assert_close(scores.motion_feature(features), wanted, atol=1e-6, rtol=0)
    running = scores.MotionMean()
    for part in features.split(2):
        running.update(part)
    torch.testing.assert_close(running.mean(), scores.motion_feature(features), atol=1e-12, rtol=0)


def test_mcs_closed_forms():
    """Ten everywhere on 100 features is 4; equal motion is minus infinity; steady motion counts."""
    assert scores.mcs(torch.full((100,), 10.0), torch.zeros(100)) == pytest.approx(4)
    assert scores.mcs(torch.ones(3), torch.ones(3)) == -math.inf
    ramp = torch.arange(5.0)[None, :, None] * torch.tensor([3.0, 4.0])
    frozen = torch.zeros_like(ramp)
    found = scores.mcs(scores.motion_feature(ramp), scores.motion_feature(frozen))
    assert found == pytest.approx(math.log10(25))


def test_motion_needs_videos_of_two_frames():
    """One frame, or no video, has no motion to speak of."""
    with pytest.raises(ValueError, match="two frames"):
        scores.motion_feature(torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="no videos"):
        scores.MotionMean().mean()
    with pytest.raises(ValueError, match="no videos"):
        scores.motion_feature(torch.zeros(0, 2, 3))
