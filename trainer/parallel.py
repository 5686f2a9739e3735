"""Processes and devices: the only place where Accelerate (and DeepSpeed through it) appears.

`motion` and `generator` are wrapped one by one, so that a stage which does not move the generator
neither computes nor sends a gradient of it: it calls the bare module. Loaders and the latent
dictionary stay outside of `prepare`, since both know the ranks themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from data_shards.errors import UserError
from trainer.comm import Comm
from trainer.networks import NavSynth


class Ranks(NamedTuple):
    """This process among all."""

    accelerator: Accelerator
    comm: Comm
    device: torch.device


def start(*, threads: int, precision: str, timeout_seconds: float) -> Ranks:
    """Join the process group that the launcher describes; alone without one.

    Raises:
        UserError: mixed precision on a CPU; fewer processes than the launcher was asked for.
    """
    gpu = torch.cuda.is_available()
    if precision != "no" and not gpu:
        raise UserError(
            f"train.precision: {precision} on a CPU is tens of times slower than no; leave it at no"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, (len(os.sched_getaffinity(0))) // local))
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    group = InitProcessGroupKwargs(
        backend="nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_seconds or 1800)
    )
    # Otherwise the first step of a life groups gradients differently from all others, and three or
    # more ranks add them up in another order: a resumed run would not repeat the bits.
    alike = DistributedDataParallelKwargs(find_unused_parameters=asked > 2)
    accelerator = Accelerator(
        cpu=not gpu, mixed_precision=None if precision == "no" else precision,
        kwargs_handlers=[group, alike] if asked > 1 else [],
    )  # fmt: skip
    if accelerator.num_processes != asked:
        raise UserError(
            f"launch: {asked} processes were started and {accelerator.num_processes} found each "
            "other; launch with accelerate_config.yaml"
        )
    return Ranks(accelerator, Comm.from_environment(device=accelerator.device), accelerator.device)


class Parallel:
    """The networks as the ranks train them together."""

    def __init__(self, networks: NavSynth, ranks: Ranks) -> None:
        self.bare = networks
        self._world = ranks.comm.world
        self._modules = {"theta": networks.motion, "gamma": networks.generator}
        self._wrapped = {
            group: ranks.accelerator.prepare(module) if ranks.comm.world > 1 else module
            for group, module in self._modules.items()
        }

    @contextmanager
    def moving(self, moves: frozenset[str]) -> Iterator[NavSynth]:
        """The networks with gradients for the groups that this stage moves, and for no other."""
        for group, module in self._modules.items():
            for param in module.parameters():
                param.requires_grad_(group in moves)
        chosen: dict[str, nn.Module] = {
            group: self._wrapped[group] if group in moves else self._modules[group]
            for group in self._modules
        }
        self.bare.motion, self.bare.generator = chosen["theta"], chosen["gamma"]  # type: ignore
        try:
            yield self.bare
        finally:
            self.bare.motion, self.bare.generator = (  # type: ignore[assignment]
                self._modules["theta"],
                self._modules["gamma"],
            )

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by, since the wrapped modules average over ranks, not sum."""
        return float(self._world)
