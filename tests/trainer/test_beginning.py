"""Latents that begin at the footage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.engines import make
from tests.support.footage import tiny_set
from tests.support.training import launch, tensors
from trainer.beginning import Codes, codes_from_footage, with_noise


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


def test_the_kept_directions_are_the_largest() -> None:
    """Of 300 clips whose directions fall by a tenth each, 16 are kept: those of the SVD."""
    draw = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(192, 192, generator=draw)).Q[:40]
    pixels = torch.randn(300, 40, generator=draw) * 0.9 ** torch.arange(40) @ turn
    frames = (127.5 + 60 * pixels / pixels.abs().max()).round().to(torch.uint8)
    frames = frames.reshape(300, 1, 3, 8, 8).expand(-1, 2, -1, -1, -1).contiguous()
    rows = torch.arange(300)
    got = codes(frames, rows, rows)
    truth = frames[:, 0].flatten(1).float()
    truth = truth - truth.mean(dim=0)
    left, singular, _ = torch.linalg.svd(truth, full_matrices=False)
    kept = (left * singular)[:, :16]
    kept = kept / kept.norm(dim=1).max()
    assert torch.allclose(got.static_NS @ got.static_NS.T, kept @ kept.T, atol=2e-2)


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


def test_noise_moves_latents_towards_those_of_a_random_beginning(tmp_path: Path) -> None:
    """None of it leaves them, half of it is half way, all of it is a random beginning's rows."""
    rows = torch.arange(6)
    at_footage = codes(footage(), rows, rows)
    same, half, random = (with_noise(at_footage, share, seed=3, scale=1.0) for share in (0, 0.5, 1))
    for ours, none, middle, drawn in zip(at_footage, same, half, random, strict=True):
        assert torch.equal(ours, none) and not torch.equal(ours, drawn)
        torch.testing.assert_close(middle, (ours + drawn) / 2)
    data = tiny_set(tmp_path, size=32)
    engine = make(str(data), ("begin.latents=random", "seed=3")).engine
    layout = engine.config.latents
    rows = torch.arange(engine.dictionary.tables["transient"].count)
    fresh = engine.dictionary.rows("transient", rows)
    empty = Codes(torch.zeros(1, layout.static), torch.zeros(fresh.shape))
    noise = with_noise(empty, 1.0, seed=3, scale=layout.init_scale)
    torch.testing.assert_close(noise.transient_NTM, fresh)


@pytest.mark.slow
def test_a_training_begins_with_the_noise_that_is_asked_for(tmp_path: Path) -> None:
    """begin.noise reaches the dictionary: after a step at rates of nearly nothing, rows differ."""
    data = tiny_set(tmp_path, size=32)
    still = ("train.steps=1", "latents.rate=1e-12", "train.pictures=false")
    for name, noise in (("none", 0), ("some", 0.5)):
        done = launch(tmp_path, data, *still, f"begin.noise={noise}", name=name)
        assert done.returncode == 0, done.stderr
    none, some = (tensors(tmp_path / name, 1) for name in ("none", "some"))
    moved = [name for name in none if ".value." in name and not torch.equal(none[name], some[name])]
    assert any("static" in name for name in moved) and any("transient" in name for name in moved)
