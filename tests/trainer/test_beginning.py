"""Latents that begin at the footage."""

from __future__ import annotations

import torch

from trainer.beginning import codes_from_footage


def footage(clips: int = 6, frames: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (clips, frames, 3, 4, 4), generator=generator).to(torch.uint8)


def codes(frames_NTCHW: torch.Tensor, static: torch.Tensor, transient: torch.Tensor):
    rows = (int(static.max()) + 1, int(transient.max()) + 1)
    return codes_from_footage(
        frames_NTCHW, static, transient, rows=rows, widths=(16, 40), seed=0
    )  # fmt: skip


def test_inner_products_are_those_of_the_centred_footage() -> None:
    """Per-video rows keep the geometry: Gram matrices equal the pixels', up to one factor."""
    frames = footage()
    rows = torch.arange(6)
    got = codes(frames, rows, rows)
    pixels = frames.float().flatten(2) * 2 / 255
    means = pixels.mean(dim=1)
    for code, truth in (
        (got.static_NS, means - means.mean(dim=0)),
        (got.transient_NTM.flatten(0, 1), (pixels - means[:, None]).flatten(0, 1)),
    ):
        truth = truth / truth.norm(dim=1).max()
        # 40 of 48 directions are kept for the motion, so only the kept part is compared.
        left, singular, _ = torch.linalg.svd(truth, full_matrices=False)
        kept = (left * singular)[:, : code.shape[1]]
        kept = kept / kept.norm(dim=1).max()
        assert torch.allclose(code @ code.T, kept @ kept.T, atol=2e-2)


def test_rows_shared_by_clips_are_their_mean() -> None:
    """With two identities and three actions, rows are averages over the clips that share them."""
    frames = footage()
    static, transient = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    got = codes(frames, static, transient)
    assert got.static_NS.shape == (2, 16) and got.transient_NTM.shape == (3, 5, 40)
    assert torch.allclose(got.static_NS[0], -got.static_NS[1], atol=1e-5)


def test_every_vector_lies_in_the_unit_ball_and_one_touches_it() -> None:
    """The longest vector has norm 1."""
    rows = torch.arange(6)
    for code in codes(footage(), rows, rows):
        assert abs(float(code.norm(dim=-1).max()) - 1) < 1e-5


def test_the_same_footage_gives_the_same_codes() -> None:
    """Codes are a pure function of footage and seed."""
    rows = torch.arange(6)
    first, second = (codes(footage(), rows, rows) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
