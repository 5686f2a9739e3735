"""Losses against slow loops written from the paper, in numpy, one number at a time."""

import numpy as np
import pytest
import torch

from trainer import losses
from trainer.networks import NavSynth, NetworksConfig

KERNEL = np.array([1, 4, 6, 4, 1]) / 16


def slow_blur_halve(image):
    height, width = image.shape
    out = np.zeros(((height + 1) // 2, (width + 1) // 2))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for a in range(-2, 3):
                for b in range(-2, 3):
                    y = min(max(2 * i + a, 0), height - 1)
                    x = min(max(2 * j + b, 0), width - 1)
                    out[i, j] += KERNEL[a + 2] * KERNEL[b + 2] * image[y, x]
    return out


def slow_expand(small, shape):
    out = np.zeros(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            for a in range(-2, 3):
                for b in range(-2, 3):
                    if (i + a) % 2 or (j + b) % 2:
                        continue
                    y = min(max((i + a) // 2, 0), small.shape[0] - 1)
                    x = min(max((j + b) // 2, 0), small.shape[1] - 1)
                    out[i, j] += 4 * KERNEL[a + 2] * KERNEL[b + 2] * small[y, x]
    return out


def slow_pyramid(image, levels):
    pyramid = []
    for _ in range(levels - 1):
        small = slow_blur_halve(image)
        pyramid.append(image - slow_expand(small, image.shape))
        image = small
    return [*pyramid, image]


def slow_reconstruction(fake, real, levels):
    total = 0.0
    channels = [
        (slow_pyramid(f, levels), slow_pyramid(r, levels)) for f, r in zip(fake, real, strict=True)
    ]
    for level in range(levels):
        gaps = [np.abs(f[level] - r[level]) for f, r in channels]
        total += np.mean(gaps)
    return total


def slow_triplet(codes, triplets, margin, squared):
    out = []
    for b in range(len(codes)):
        hinges = []
        for anchor, positive, negative, valid in zip(
            *(t[b].tolist() for t in triplets), strict=True
        ):
            if valid:
                near = sum((codes[b, anchor] - codes[b, positive]) ** 2)
                far = sum((codes[b, anchor] - codes[b, negative]) ** 2)
                if not squared:
                    near, far = near**0.5, far**0.5
                hinges.append(max(near + margin - far, 0))
        out.append(np.mean(hinges) if hinges else 0.0)
    return np.array(out)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (5, 1)])
def test_pyramid_equals_the_loop(size):
    """Every level, band or residual, is what Burt and Adelson's sums give, odd sizes included."""
    image = random(*size)
    fast = losses.laplacian_pyramid(image[None], 3)
    for level, slow in zip(fast, slow_pyramid(image.numpy(), 3), strict=True):
        np.testing.assert_allclose(level[0].numpy(), slow, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_reconstruction_equals_the_loop(levels):
    """The pyramid of the difference gives the loss of two pyramids, for any leading dimensions."""
    fake, real = random(2, 3, 3, 16, 16), random(2, 3, 3, 16, 16, seed=1)
    fast = losses.reconstruction(fake, real, levels=levels)
    assert fast.shape == (2, 3)
    for i in np.ndindex(2, 3):
        slow = slow_reconstruction(fake[i].numpy(), real[i].numpy(), levels)
        assert fast[i].item() == pytest.approx(slow, abs=1e-12)


def test_reconstruction_of_a_constant_shift_is_the_shift():
    """A uniform difference lives in the residual alone, once."""
    real = random(2, 3, 16, 16)
    torch.testing.assert_close(
        losses.reconstruction(real + 0.25, real, levels=4), torch.full((2,), 0.25).double()
    )


def test_reconstruction_gradient():
    """The gradient is that of the sums."""
    fake, real = random(1, 2, 6, 6).requires_grad_(), random(1, 2, 6, 6, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: losses.reconstruction(x, real, levels=3), (fake,), eps=1e-7
    )


def test_reconstruction_knows_no_memory_format():
    """channels_last frames give the bits of contiguous ones, and a gradient."""
    fake, real = random(2, 3, 16, 16, dtype=torch.float32), random(2, 3, 16, 16).float().flip(0)
    last = fake.to(memory_format=torch.channels_last).requires_grad_()
    loss = losses.reconstruction(last, real, levels=3)
    assert torch.equal(loss, losses.reconstruction(fake, real, levels=3))
    loss.sum().backward()
    assert last.grad is not None and last.grad.abs().sum() > 0


def test_matrices_made_in_inference_mode_serve_training():
    """Evaluation before training leaves nothing behind that a backward pass cannot use."""
    with torch.inference_mode():
        losses.reconstruction(torch.zeros(1, 3, 22, 22), torch.zeros(1, 3, 22, 22), levels=3)
    fake = torch.ones(1, 3, 22, 22, requires_grad=True)
    losses.reconstruction(fake, torch.zeros(1, 3, 22, 22), levels=3).sum().backward()
    assert fake.grad is not None


def test_static_is_the_loss_of_frame_k():
    """l_static of a clip is the reconstruction loss of its drawn frame (Eq. 4)."""
    fake, real, frame_B = random(3, 4, 3, 8, 8), random(3, 4, 3, 8, 8, seed=1), [2, 0, 3]
    fast = losses.static(fake, real, torch.tensor(frame_B), levels=2)
    for b, k in enumerate(frame_B):
        slow = slow_reconstruction(fake[b, k].numpy(), real[b, k].numpy(), 2)
        assert fast[b].item() == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("squared", [True, False])
def test_triplet_equals_the_loop(squared):
    """Mean hinge over the anchors that have a positive and a negative, per clip."""
    codes = random(5, 9, 7) / 2
    triplets = losses.draw_triplets(5, 9, radius=2, gap=4, generator=torch.Generator())
    fast = losses.triplet(codes, triplets, margin=2.0, squared=squared)
    slow = slow_triplet(codes.numpy(), triplets, 2.0, squared)
    np.testing.assert_allclose(fast.numpy(), slow, atol=1e-12)


@pytest.mark.parametrize("squared", [True, False])
def test_triplet_gradient(squared):
    """The gradient is that of the hinge, for either distance."""
    codes = random(2, 6, 3).requires_grad_()
    triplets = losses.draw_triplets(2, 6, radius=1, gap=2)
    assert torch.autograd.gradcheck(
        lambda z: losses.triplet(z, triplets, margin=2.0, squared=squared), (codes,)
    )


def test_triplet_of_equal_codes_has_a_finite_gradient():
    """A transient sequence that starts out constant does not make a NaN of the distance."""
    codes = torch.ones(1, 8, 3, requires_grad=True)
    triplets = losses.draw_triplets(1, 8, radius=2, gap=2)
    losses.triplet(codes, triplets, margin=2.0, squared=False).sum().backward()
    assert codes.grad is not None and codes.grad.isfinite().all()


def test_drawn_triplets_keep_the_margins():
    """Positives within the radius and never the anchor, negatives beyond the gap, all reached."""
    draw = losses.draw_triplets(4000, 7, radius=2, gap=3, generator=torch.Generator())
    seen_near = {(a, p) for a, p in zip(*map(_flat, draw[:2]), strict=True)}
    valid = [a for a in range(7) if any(abs(a - n) > 3 for n in range(7))]
    assert draw.valid_BA[0].nonzero()[:, 0].tolist() == valid
    assert {(a, p) for a, p in seen_near if a in valid} == {
        (a, p) for a in valid for p in range(7) if 0 < abs(a - p) <= 2
    }
    seen_far = {(a, n) for a, n in zip(_flat(draw.anchor_BA), _flat(draw.negative_BA), strict=True)}
    assert {(a, n) for a, n in seen_far if a in valid} == {
        (a, n) for a in valid for n in range(7) if abs(a - n) > 3
    }


def test_draws_are_even():
    """No candidate is favoured: counts lie within five standard deviations of equal shares."""
    draw = losses.draw_triplets(
        6000, 16, radius=2, gap=5, generator=torch.Generator().manual_seed(3)
    )
    counts = torch.bincount(draw.negative_BA[:, 8], minlength=16)[[0, 1, 2, 14, 15]].double()
    assert counts.sum() == 6000
    assert (counts - 1200).abs().max() < 5 * (6000 * 0.2 * 0.8) ** 0.5


def test_draws_repeat_with_the_generator():
    """The same generator state gives the same triplets."""
    first, second = (
        losses.draw_triplets(3, 8, radius=2, gap=2, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("batch", "frames"), [(3, 2), (3, 1), (0, 8), (2, 0)])
def test_no_triplets_no_loss(batch, frames):
    """Clips too short for a negative, and empty batches, give zeros with a gradient of zeros."""
    codes = torch.ones(batch, frames, 4, requires_grad=True)
    triplets = losses.draw_triplets(batch, frames, radius=2, gap=2)
    loss = losses.triplet(codes, triplets, margin=2.0)
    assert torch.equal(loss, torch.zeros(batch))
    loss.sum().backward()
    assert torch.equal(codes.grad, torch.zeros_like(codes))


def test_semi_hard_negatives_equal_the_loop():
    """The nearest allowed negative beyond the positive, or the farthest where there is none."""
    codes = random(6, 12, 2)
    drawn = losses.draw_triplets(6, 12, radius=2, gap=5, generator=torch.Generator())
    hard = losses.semi_hard(codes, drawn, gap=5)
    z = codes.numpy()
    for b, a in np.ndindex(6, 12):
        far = {n: sum((z[b, a] - z[b, n]) ** 2) for n in range(12) if abs(a - n) > 5}
        if not far:
            assert not hard.valid_BA[b, a]
            continue
        near = sum((z[b, a] - z[b, drawn.positive_BA[b, a]]) ** 2)
        beyond = {n: d for n, d in far.items() if d > near}
        wanted = min(beyond, key=beyond.get) if beyond else max(far, key=far.get)
        assert hard.negative_BA[b, a] == wanted


@pytest.mark.parametrize("codes_of", ["motion", "latents"])
def test_triplet_reaches_neither_gamma_nor_static(codes_of):
    """Sec. 3.3: gamma and z^(s) learn from l_rec and l_static only; theta and z^(t) from all."""
    torch.manual_seed(0)
    networks = NavSynth(NetworksConfig(hidden=8, channels=8), static=3, transient=5, size=32)
    static_BS, transient_BTM = torch.randn(2, 3), torch.randn(2, 8, 5)
    for latent in (static_BS, transient_BTM):
        latent.requires_grad_()
    images, motion = networks(static_BS, transient_BTM)
    codes = motion if codes_of == "motion" else transient_BTM
    drawn = losses.draw_triplets(2, 8, radius=2, gap=2)
    losses.triplet(codes, drawn, margin=2.0).sum().backward(retain_graph=True)
    assert static_BS.grad is None and all(p.grad is None for p in networks.gamma())
    assert transient_BTM.grad.abs().sum() > 0
    assert all((p.grad is not None) == (codes_of == "motion") for p in networks.theta())
    losses.reconstruction(images, torch.zeros_like(images), levels=2).sum().backward()
    everything = [static_BS, transient_BTM, *networks.gamma(), *networks.theta()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in everything)


@pytest.mark.parametrize("call", [
    lambda: losses.laplacian_pyramid(torch.zeros(3, 4, 4), 0),
    lambda: losses.draw_triplets(1, 4, radius=0, gap=2),
    lambda: losses.draw_triplets(1, 4, radius=3, gap=2),
])  # fmt: skip
def test_senseless_numbers_are_refused(call):
    """Levels below one, and margins in the wrong order, raise at once."""
    with pytest.raises(ValueError):
        call()


def _flat(index_BA):
    return index_BA.flatten().tolist()
