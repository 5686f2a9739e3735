"""Eq. 6 as the trainer adds it up, and where its gradients go (Sec. 3.3)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trainer import losses, objective
from trainer.draws import draw
from trainer.networks import NavSynth, NetworksConfig
from trainer.objective import LossConfig, psnr_of, terms, to_pixels

B, T, S, M = 3, 6, 4, 5


def example(regression: str = "pyramid", **settings: Any):
    torch.manual_seed(0)
    fake, real = torch.randn(B, T, 3, 8, 8), torch.rand(B, T, 3, 8, 8) * 2 - 1
    codes = torch.randn(B, T, M)
    choice = draw(
        torch.arange(B), seed=0, step=0, batch=B, frames=T, drawn=0, radius=2, gap=2
    )  # fmt: skip
    config = LossConfig(levels=2, regression=regression, **settings)
    return fake, real, codes, choice, config


@pytest.mark.parametrize("regression", ["mse", "pyramid"])
def test_terms_add_up_as_written(regression: str) -> None:
    """l_rec + lambda_s l_static + lambda_t l_triplet, against a loop over clips and frames."""
    fake, real, codes, choice, config = example(regression, lambda_static=0.3, lambda_triplet=0.7)
    got = terms(fake, real, codes, choice, torch.ones(B, dtype=torch.bool), config=config, batch=B)
    rec = static = triplet = 0.0
    for b in range(B):
        frame = [
            float(losses.reconstruction(fake[b, t], real[b, t], levels=2))
            if regression == "pyramid"
            else 4 * float(((fake[b, t] - real[b, t]) ** 2).mean())
            for t in range(T)
        ]
        rec += sum(frame) / T / B
        static += frame[int(choice.static_B[b])] / B
        one = losses.Triplets(*(index[b : b + 1] for index in choice.triplets))
        triplet += float(losses.triplet(codes[b : b + 1], one, margin=2.0)) / B
    expected = rec + 0.3 * static + 0.7 * triplet
    assert float(got.total) == pytest.approx(expected, rel=1e-5)
    assert [float(x) for x in got[1:4]] == pytest.approx([rec, static, triplet], rel=1e-5)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    """Terms of two ranks' clips, each over the global batch, sum to those of one rank."""
    fake, real, codes, choice, config = example()
    valid = torch.tensor([True, False, True])
    whole = terms(fake, real, codes, choice, valid, config=config, batch=B)
    parts = []
    for clips in (slice(0, 1), slice(1, 3)):
        part = choice._replace(
            static_B=choice.static_B[clips],
            triplets=losses.Triplets(*(index[clips] for index in choice.triplets)),
        )
        parts.append(
            terms(fake[clips], real[clips], codes[clips], part, valid[clips], config=config,
                  batch=B)
        )  # fmt: skip
    for one, *some in zip(whole, *parts, strict=True):
        assert float(one) == pytest.approx(sum(float(x) for x in some), rel=1e-5)


def test_gradients_go_where_the_paper_sends_them() -> None:
    """l_triplet alone moves theta and z^t, but neither gamma nor z^s."""
    torch.manual_seed(0)
    config = NetworksConfig(hidden=7, channels=4)
    networks = NavSynth(config, static=S, transient=M, size=32)
    static = torch.randn(B, S, requires_grad=True)
    transient = torch.randn(B, T, M, requires_grad=True)
    fake, motion = networks(static, transient)
    choice = draw(torch.arange(B), seed=0, step=0, batch=B, frames=T, drawn=0, radius=2, gap=2)
    valid = torch.ones(B, dtype=torch.bool)
    got = terms(fake, torch.zeros_like(fake), motion, choice, valid,
                config=LossConfig(lambda_static=0.0, lambda_triplet=1.0), batch=B)  # fmt: skip
    without = terms(fake, torch.zeros_like(fake), motion, choice, valid,
                    config=LossConfig(lambda_static=0.0, lambda_triplet=0.0), batch=B)  # fmt: skip
    (got.total - without.total).backward()
    assert transient.grad is not None and transient.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in networks.theta()[:1])
    assert static.grad is None or static.grad.abs().max() < 1e-6
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in networks.gamma())


def test_pixels_and_psnr() -> None:
    """0 and 255 are -1 and 1; an error of one grey level everywhere is 48.13 dB."""
    assert to_pixels(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == pytest.approx([-1, 1])
    assert psnr_of((2 / 255) ** 2) == pytest.approx(48.1308, abs=1e-3)


def test_semi_hard_negatives_can_be_asked_for() -> None:
    """loss.negatives=semi_hard puts the condition on the negatives that the codes choose."""
    fake, real, codes, choice, config = example(negatives="semi_hard", lambda_triplet=1.0)
    got = terms(fake, real, codes, choice, torch.ones(B, dtype=torch.bool), config=config, batch=B)
    hard = losses.semi_hard(codes, choice.triplets, gap=config.gap)
    expected = float(losses.triplet(codes, hard, margin=2.0).mean())
    assert float(got.triplet) == pytest.approx(expected, rel=1e-5)
    assert not torch.equal(hard.negative_BA, choice.triplets.negative_BA)


def test_what_is_shown_is_of_the_clips_that_are_there() -> None:
    """Sums over a batch of four of which one is damaged: means over three; nothing of none."""
    sums = [3.0, 1.5, 0.75, 0.375, 0.003]
    found = objective.shown(sums, batch=4, valid=3)
    assert found["loss/total"] == pytest.approx(4.0) and found["loss/rec"] == pytest.approx(2.0)
    assert found["psnr"] == pytest.approx(10 * math.log10(4 / 0.004), abs=1e-4)
    assert objective.shown(sums, batch=4, valid=4)["loss/static"] == 0.75
    assert objective.shown(sums, batch=4, valid=0) == {}
