"""Draws depend on (seed, step, slot) and on nothing else."""

from __future__ import annotations

import torch

from trainer.draws import draw

SETTINGS = {"seed": 3, "batch": 7, "frames": 16, "radius": 2, "gap": 2}


def test_ranks_draw_what_one_rank_would() -> None:
    """The draws of two halves of a batch are those of the whole."""
    whole = draw(torch.arange(7), step=5, drawn=2, **SETTINGS)
    parts = [draw(slots, step=5, drawn=2, **SETTINGS) for slots in torch.arange(7).split([3, 4])]
    assert torch.equal(torch.cat([p.frames_BF for p in parts]), whole.frames_BF)
    assert torch.equal(torch.cat([p.static_B for p in parts]), whole.static_B)
    for i, index in enumerate(whole.triplets):
        assert torch.equal(torch.cat([p.triplets[i] for p in parts]), index)


def test_steps_differ_and_repeat() -> None:
    """Another step draws other frames; the same step draws the same again."""
    first, again, other = (
        draw(torch.arange(7), step=step, drawn=4, **SETTINGS).frames_BF for step in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_drawn_frames_are_distinct_and_in_order() -> None:
    """Frames are drawn without replacement; 0 or T of them means all."""
    frames_BF = draw(torch.arange(7), step=0, drawn=5, **SETTINGS).frames_BF
    assert frames_BF.shape == (7, 5) and (frames_BF.diff(dim=1) > 0).all()
    assert frames_BF.min() >= 0 and frames_BF.max() < 16
    assert draw(torch.arange(7), step=0, drawn=0, **SETTINGS).frames_BF is None
    assert draw(torch.arange(7), step=0, drawn=16, **SETTINGS).frames_BF is None


def test_every_frame_is_drawn_equally_often() -> None:
    """Over many steps no frame is preferred (a chi-squared bound that is passed by design)."""
    counts = torch.zeros(16)
    for step in range(400):
        frames_BF = draw(torch.arange(7), step=step, drawn=1, **SETTINGS).frames_BF
        counts += torch.bincount(frames_BF.flatten(), minlength=16)
    expected = 400 * 7 / 16
    assert ((counts - expected) ** 2 / expected).sum() < 40
