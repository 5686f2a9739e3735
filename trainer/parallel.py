"""Processes and devices: the only place where Accelerate appears (and DeepSpeed, with `zero`).

`motion` and `generator` are wrapped one by one, so that a stage which does not move the generator
neither computes nor sends a gradient of it: it calls the bare module. Loaders and the latent
dictionary stay outside of `prepare`, since both know the ranks themselves.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from data_shards.cores import cores
from data_shards.errors import UserError
from trainer.batchnorm import share_batch_norms_
from trainer.comm import Comm
from trainer.devices import compute_in_
from trainer.networks import NavSynth

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
"""Set by `accelerate launch` where its config asks for DeepSpeed."""
MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
"""Set by `accelerate launch` from its options, its config file, or the user's own one."""
AMPERE = (8, 0)
"""The compute capability from which on a GPU has units for bf16 and tf32."""


class Ranks(NamedTuple):
    """This process among all."""

    accelerator: Accelerator
    comm: Comm
    device: torch.device
    zero: bool = False
    """Whether DeepSpeed shards the optimiser (ZeRO)."""


def start(*, threads: int, precision: str, timeout_seconds: float) -> Ranks:
    """Join the process group that the launcher describes; alone without one.

    Raises:
        UserError: mixed precision on a CPU or on a GPU that only imitates it, or another one that
            the launcher was asked for; fewer processes than it was asked for.
    """
    gpu = torch.cuda.is_available()
    _check_precision(precision)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpu and local > torch.cuda.device_count():
        raise UserError(
            f"launch: {local} processes for {torch.cuda.device_count()} GPUs; add --num_processes "
            f"{torch.cuda.device_count()} to accelerate launch"
        )
    torch.set_num_threads(threads or max(1, cores() // local))
    if not gpu:
        keep_freed_memory()
    if gpu:
        # Deterministic matrix products need this before the first of them.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        compute_in_(precision)
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    zero = os.environ.get(DEEPSPEED, "").lower() in ("1", "true")
    if zero:
        from trainer.zero import prepare_environment

        prepare_environment(gpu=gpu)
    group = InitProcessGroupKwargs(
        backend="nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_seconds or 1800)
    )
    # Otherwise the first step of a life groups gradients differently from all others, and three or
    # more ranks add them up in another order: a resumed run would not repeat the bits.
    alike = DistributedDataParallelKwargs(find_unused_parameters=asked > 2)
    accelerator = Accelerator(
        # With cpu=True Accelerate gives plain DDP where DeepSpeed was asked for, and says nothing.
        cpu=not gpu and not zero,
        mixed_precision="no",  # what `compute_in_` and the engine do, it would do once more
        kwargs_handlers=[group, alike] if asked > 1 or zero else [],
    )
    if accelerator.num_processes != asked:
        raise UserError(
            f"launch: {asked} processes were started and {accelerator.num_processes} found each "
            "other; launch with accelerate_config.yaml"
        )
    device = accelerator.device
    comm = Comm.from_environment(device=device, timeout_seconds=timeout_seconds or 1800)
    return Ranks(accelerator, comm, device, zero)


def _check_precision(precision: str) -> None:
    """`UserError` where this machine only imitates it, or the launcher was asked for another."""
    if precision != "no" and not torch.cuda.is_available():
        raise UserError(
            f"train.precision: {precision} on a CPU is tens of times slower than no; leave it at no"
        )
    if precision != "no" and torch.cuda.get_device_capability() < AMPERE:
        raise UserError(
            f"train.precision: {precision} needs an Ampere GPU or a newer one, which "
            f"{torch.cuda.get_device_name()} is not; leave it at no"
        )
    outside = os.environ.get(MIXED_PRECISION, "no").lower()
    if outside not in ("", "no", precision):
        raise UserError(
            f"launch: mixed_precision is {outside} for Accelerate and train.precision is "
            f"{precision}; launch with accelerate_config.yaml or --mixed_precision no, and set "
            "train.precision"
        )


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one, instead of returning it to the system.

    Gradients and activations are freed and asked for again in every step; getting them as new pages
    took a tenth of it. What another C library does is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 256 << 20)


class Parallel:
    """The networks as the ranks train them together."""

    def __init__(self, networks: NavSynth, ranks: Ranks) -> None:
        self.bare = networks
        self._world = ranks.comm.world
        self._modules = {"theta": networks.motion, "gamma": networks.generator}
        self._wrapped: dict[str, nn.Module] = dict(self._modules)
        if self._world > 1:
            share_batch_norms_(networks.generator, ranks.comm)
            for group, module in self._modules.items():
                self._wrapped[group] = ranks.accelerator.prepare(module)
                ranks.comm.count_gradients_(self._wrapped[group])

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

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Gradients are sent in the last micro-batch of a step and kept until then."""
        with ExitStack() as stack:
            if self._world > 1 and not last:
                for module in self._wrapped.values():
                    stack.enter_context(module.no_sync())  # type: ignore[operator]
            yield

    def backward(self, total: torch.Tensor) -> None:
        """Add the gradients of a rank's part of the global loss."""
        # The wrapped modules average over ranks, and the global loss is a sum.
        (total * self.loss_scale).backward()

    def settle(self) -> None:
        """Nothing: every rank moves weights of its own."""

    @property
    def loss_scale(self) -> float:
        """What gradients of latents are too large by."""
        return float(self._world)


def micro_batches(clips: int, count: int) -> list[slice]:
    """`count` slices of a rank's clips, in order; some are empty where there are too few clips."""
    edges = [clips * i // count for i in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]
