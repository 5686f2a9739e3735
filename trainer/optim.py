"""Optimisers of the networks: one Adam with a group for each of theta (R) and gamma (G).

The latents have their own row-wise optimiser, in the dictionary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from data_shards.errors import UserError
from trainer.networks import NavSynth


@dataclass(frozen=True)
class OptimConfig:
    """Rates and moments of theta and gamma (Tab. 6: tau_R and tau_G)."""

    gamma_rate: float = 5e-3
    """Learning rate of the generator (tau_G in Tab. 6)."""
    theta_rate: float = 1e-3
    """Learning rate of the motion RNN (tau_R in Tab. 6)."""
    beta1: float = 0.9
    """Adam's first moment decay."""
    beta2: float = 0.99
    """Adam's second moment decay."""
    epsilon: float = 1e-8
    """Adam's epsilon."""
    curve: str = "cosine"
    """Rates over the run: constant | cosine | linear (to zero); the latents' rate follows, too."""
    warmup: float = 0.002
    """Share of the run over which rates rise from zero."""
    clip: float = 0.0
    """Largest norm of the gradient of each of theta and gamma; 0: not clipped."""

    def __post_init__(self) -> None:
        for name in ("gamma_rate", "theta_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"optim.{name}: {getattr(self, name)} is not positive")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise UserError("optim: beta1 and beta2 must be in [0, 1) and epsilon positive")
        if self.curve not in ("constant", "cosine", "linear"):
            raise UserError(f"optim.curve: {self.curve!r} is none of constant, cosine, linear")
        if not 0 <= self.warmup < 1 or self.clip < 0:
            raise UserError("optim: warmup must be in [0, 1) and clip at least 0")


GROUPS = ("gamma", "theta")


def make_adam(params: Any, *, config: OptimConfig) -> torch.optim.Adam:
    """The optimiser of some parameters or groups of them; rates are set before every step."""
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(params, lr=1.0, betas=betas, eps=config.epsilon, fused=True)


class NetworkOptimiser:
    """Adam over gamma and theta; a group that a stage does not move is left exactly as it is."""

    def __init__(self, networks: NavSynth, *, config: OptimConfig) -> None:
        self.config = config
        self.params = {"gamma": list(networks.gamma()), "theta": list(networks.theta())}
        self._adam = {
            group: make_adam(params, config=config) for group, params in self.params.items()
        }

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for adam in self._adam.values():
            adam.zero_grad(set_to_none=True)

    def norms(self, moves: frozenset[str]) -> dict[str, torch.Tensor]:
        """L2 norm of the gradient of each group that moves; clipped where the config says so."""
        limit = self.config.clip or float("inf")
        return {
            group: torch.nn.utils.clip_grad_norm_(self.params[group], limit)
            if self.config.clip
            else torch.nn.utils.get_total_norm([p.grad for p in self.params[group]])  # type: ignore
            for group in GROUPS
            if group in moves
        }

    def step(self, moves: frozenset[str], *, factor: float) -> None:
        """Move the groups of this stage, rates times `factor`."""
        rates = {"gamma": self.config.gamma_rate, "theta": self.config.theta_rate}
        for group in GROUPS:
            if group in moves:
                self._adam[group].param_groups[0]["lr"] = rates[group] * factor
                self._adam[group].step()

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts by group and number of the parameter; flat, for safetensors."""
        flat = {}
        for group, adam in self._adam.items():
            for i, param in enumerate(self.params[group]):
                for name, tensor in adam.state.get(param, {}).items():
                    flat[f"{group}.{i:04d}.{name}"] = tensor
        return flat

    @torch.no_grad()
    def load(self, flat: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave; a group that had not moved yet has no state."""
        for group, adam in self._adam.items():
            for i, param in enumerate(self.params[group]):
                prefix = f"{group}.{i:04d}."
                entry = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
                adam.state.pop(param, None)
                if entry:
                    # Moments take the parameter's strides, which safetensors does not keep; fused
                    # Adam has its count of steps on the device.
                    adam.state[param] = {
                        k: v.to(param.device, copy=True)
                        if k == "step"
                        else torch.empty_like(param).copy_(v)
                        for k, v in entry.items()
                    }
