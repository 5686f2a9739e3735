"""ZeRO stages 1 and 2 through DeepSpeed: the optimiser's moments sharded over ranks.

It takes the place of both `Parallel` and `NetworkOptimiser`: one DeepSpeed engine holds both
networks, since Accelerate prepares one model. Checkpoints stay those of plain training: moments
are gathered from their shards when they are written, and dealt again when they are read.

Run: accelerate launch --config_file launch/deepspeed/zero1.yaml trainer/main.py ...
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from data_shards.errors import UserError
from trainer.batchnorm import share_batch_norms_
from trainer.networks import NavSynth
from trainer.optim import GROUPS, OptimConfig, make_adam

MOMENTS = ("exp_avg", "exp_avg_sq")


def prepare_environment(*, gpu: bool) -> None:
    """What DeepSpeed looks at when it is imported.

    Raises:
        UserError: it is not installed.
    """
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        from deepspeed import ops  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "launch: the accelerate config asks for DeepSpeed, which is not installed; "
            "pip install 'navsynth[deepspeed]', or launch with accelerate_config.yaml"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # An operation that is compiled for half a minute and saves microseconds.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Zero:
    """Networks and optimiser as the ranks share them."""

    def __init__(self, networks: NavSynth, ranks: Any, *, config: OptimConfig) -> None:
        self.config, self.comm = config, ranks.comm
        if self.comm.world > 1:
            share_batch_norms_(networks.generator, ranks.comm)
        self.params = {"gamma": networks.gamma(), "theta": networks.theta()}
        adam = make_adam([{"params": self.params[group]} for group in GROUPS], config=config)
        self._engine, _ = ranks.accelerator.prepare(networks, adam)
        self._zero = self._engine.optimizer
        stage = self._engine.zero_optimization_stage()
        if stage not in (1, 2) or self._zero.cpu_offload:
            raise UserError(
                f"launch: DeepSpeed's ZeRO stage {stage}{' with offload' if stage else ''} is not "
                "supported; use launch/deepspeed/zero1.yaml or zero2.yaml"
            )
        if self.comm.world > 1:
            self._count_gradients()

    def _count_gradients(self) -> None:
        """Have `comm.bytes_sent` count, as `gradients`, what DeepSpeed adds up between ranks."""
        send, sent = self._zero.allreduce_bucket, self.comm.bytes_sent
        others, world = self.comm.world - 1, self.comm.world

        def counted(bucket: list[torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
            size = sum(part.numel() * part.element_size() for part in bucket)
            sent["gradients"] += 2 * size * others // world  # a ring, as `Comm` counts sums
            return send(bucket, *args, **kwargs)

        self._zero.allreduce_bucket = counted

    @contextmanager
    def moving(self, moves: frozenset[str]) -> Iterator[Any]:
        """The networks; a stage that leaves one of them alone is refused (UserError)."""
        if not moves.issuperset(GROUPS):
            raise UserError(
                "schedule.kind: alternate moves one network at a time, which DeepSpeed does not; "
                "use fast or joint, or launch with accelerate_config.yaml"
            )
        yield self._engine

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Gradients are complete after the last micro-batch of a step."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, total: torch.Tensor) -> None:
        """Add the gradients of a rank's part of the global loss."""
        self._engine.backward(total * self.loss_scale)

    def settle(self) -> None:
        """Nothing: every rank moves weights of its own."""

    @property
    def loss_scale(self) -> float:
        """What gradients of latents are too large by."""
        return float(self.comm.world)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._engine.optimizer.zero_grad()

    def norms(self, moves: frozenset[str]) -> dict[str, torch.Tensor]:
        """L2 norm of each group's gradient, from the ranks' shards; clipped where asked for."""
        shards = [self._zero.averaged_gradients[i] for i, _ in enumerate(GROUPS)]
        squares = [torch.stack([part.square().sum() for part in shard]).sum() for shard in shards]
        norms = self.comm.sum_(torch.stack(squares)).sqrt()
        if self.config.clip:
            for shard, norm in zip(shards, norms, strict=True):
                for part in shard:
                    part.mul_((self.config.clip / (norm + 1e-6)).clamp(max=1.0))
        return dict(zip(GROUPS, norms, strict=True))

    def step(self, moves: frozenset[str], *, factor: float) -> None:
        """Move both networks, rates times `factor`."""
        rates = {"gamma": self.config.gamma_rate, "theta": self.config.theta_rate}
        for group, settings in zip(GROUPS, self._zero.param_groups, strict=True):
            settings["lr"] = rates[group] * factor
        self._engine.step()
        shards = sum(shard.numel() * shard.element_size() for shard in self._shards())
        # Every rank gives the others the weights that it has moved.
        self.comm.bytes_sent["weights"] += shards * (self.comm.world - 1)

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts as `NetworkOptimiser` names them; on every rank together."""
        from deepspeed.utils import safe_get_full_optimizer_state  # pyright: ignore

        flat = {}
        self._link_moments()
        for shard, group in zip(self._shards(), GROUPS, strict=True):
            state = self._zero.optimizer.state.get(shard)
            for i, param in enumerate(self.params[group] if state else []):
                flat[f"{group}.{i:04d}.step"] = torch.as_tensor(state["step"]).clone()
                for name in MOMENTS:
                    flat[f"{group}.{i:04d}.{name}"] = safe_get_full_optimizer_state(param, name)
        return flat

    @torch.no_grad()
    def load(self, flat: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave, and the weights of the networks as they are now."""
        from deepspeed.utils import safe_set_full_optimizer_state  # pyright: ignore

        self.adopt()
        for shard, group in zip(self._shards(), GROUPS, strict=True):
            if f"{group}.0000.step" in flat:
                zeros = {name: torch.zeros_like(shard) for name in MOMENTS}
                # A fused Adam wants it where the weights are.
                step = flat[f"{group}.0000.step"].to(shard.device, copy=True)
                self._zero.optimizer.state[shard] = {"step": step} | zeros
        if not flat:
            return
        self._link_moments()
        for group in GROUPS:
            for i, param in enumerate(self.params[group]):
                for name in MOMENTS:
                    moment = flat[f"{group}.{i:04d}.{name}"].to(param.device)
                    safe_set_full_optimizer_state(param, moment, name)

    @torch.no_grad()
    def adopt(self) -> None:
        """Go on from the weights as they are now: DeepSpeed moves copies of them."""
        from deepspeed.utils import safe_set_full_fp32_param  # pyright: ignore

        for shard, group in zip(self._shards(), GROUPS, strict=True):
            for param in self.params[group]:
                safe_set_full_fp32_param(param, param.detach().to(shard.device, shard.dtype))

    def _link_moments(self) -> None:
        """DeepSpeed links moments to weights after the first group's first step, and forgets the
        groups that step later."""
        if all(self._zero.optimizer.state.get(shard) for shard in self._shards()):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _shards(self) -> list[torch.Tensor]:
        return self._zero.single_partition_of_fp32_groups
