"""Optimisers of the networks and the running average of their weights."""

from __future__ import annotations

import torch

from trainer.average import WeightAverage
from trainer.networks import NavSynth, NetworksConfig
from trainer.optim import NetworkOptimiser, OptimConfig


def networks() -> NavSynth:
    torch.manual_seed(0)
    return NavSynth(NetworksConfig(hidden=7, channels=4), static=4, transient=5, size=32)


def take_step(model: NavSynth, optimiser: NetworkOptimiser, moves: frozenset[str]) -> None:
    generator = torch.Generator().manual_seed(1)
    for param in model.parameters():
        # In the weight's own layout, as autograd has it: fused kernels go by memory alone.
        param.grad = torch.empty_like(param).copy_(torch.randn(param.shape, generator=generator))
    optimiser.step(moves, factor=0.5)


def test_a_group_that_does_not_move_is_left_exactly_as_it_is() -> None:
    """Moving gamma leaves theta's bits, moments and step counts alone."""
    model = networks()
    optimiser = NetworkOptimiser(model, config=OptimConfig())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    take_step(model, optimiser, frozenset({"gamma"}))
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name]) == name.startswith("motion"), name
    assert not any(name.startswith("theta") for name in optimiser.state())


def test_steps_are_adams_with_the_rates_and_moments_of_the_settings() -> None:
    """Two steps against the formula (Kingma and Ba 2015), in float64, each group by its own."""
    config = OptimConfig(gamma_rate=0.1, theta_rate=0.02, beta1=0.6, beta2=0.7, epsilon=1e-3)
    model = networks()
    optimiser = NetworkOptimiser(model, config=config)
    want = {name: p.detach().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in want.items()}
    second = {name: torch.zeros_like(p) for name, p in want.items()}
    for step in (1, 2):
        take_step(model, optimiser, frozenset({"gamma", "theta"}))
        for name, param in model.named_parameters():
            assert param.grad is not None
            grad, rate = param.grad.double(), 0.5 * (0.02 if name.startswith("motion") else 0.1)
            first[name] = 0.6 * first[name] + 0.4 * grad
            second[name] = 0.7 * second[name] + 0.3 * grad**2
            size = (second[name] / (1 - 0.7**step)).sqrt() + 1e-3
            want[name] = want[name] - rate * first[name] / (1 - 0.6**step) / size
    for name, param in model.named_parameters():
        torch.testing.assert_close(param.detach().double(), want[name], rtol=0, atol=1e-5)


def test_a_loaded_optimiser_takes_the_same_steps() -> None:
    """Moments saved and loaded into a new optimiser give the same weights, bit for bit."""
    first, second = networks(), networks()
    one = NetworkOptimiser(first, config=OptimConfig())
    both = frozenset({"gamma", "theta"})
    take_step(first, one, both)
    two = NetworkOptimiser(second, config=OptimConfig())
    second.load_state_dict(first.state_dict())
    two.load({name: tensor.contiguous() for name, tensor in one.state().items()})
    take_step(first, one, both)
    take_step(second, two, both)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_average_follows_and_steps_aside() -> None:
    """The average is the formula's, is shown for a while or for good; decay 0 shows the weights."""
    model = networks()
    average = WeightAverage(model, decay=0.9)
    expected = next(model.parameters()).detach().clone()
    for step in range(4):
        with torch.no_grad():
            for param in model.parameters():
                param.add_(1.0)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * next(model.parameters()).detach()
    live = next(model.parameters()).detach().clone()
    with average.shown():
        assert torch.allclose(next(model.parameters()), expected, atol=1e-6)
    assert torch.equal(next(model.parameters()), live)
    average.show_()
    assert torch.allclose(next(model.parameters()), expected, atol=1e-6)
    with WeightAverage(model, decay=0.0).shown():
        assert torch.allclose(next(model.parameters()), expected, atol=1e-6)
    assert not WeightAverage(model, decay=0.0).state()
