"""The generator and the objective through torch.compile (`networks.compile`).

The motion RNN stays as it is: on a GPU it is one call of cuDNN. Neither of the two reads anything
back to the host, so either can be replayed as a CUDA graph; but for batch normalisation over
several ranks, which sends its sums by the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from data_shards.errors import UserError
from trainer import objective
from trainer.networks import COMPILERS, NetworksConfig


def compile_(
    generator: nn.Module, config: NetworksConfig, *, device: torch.device, world: int
) -> Callable[..., objective.LossTerms]:
    """Have the generator compiled in place; the objective, compiled alike.

    Raises:
        UserError: CUDA graphs without a GPU, or of batch normalisation over several ranks.
    """
    way = config.compile
    if way == "no":
        return objective.terms
    if way == "graphs" and device.type != "cuda":
        raise UserError("networks.compile: graphs needs a GPU; set networks.compile=no")
    if way == "graphs" and world > 1 and config.norm == "batch":
        raise UserError(
            "networks.compile: batch normalisation over several ranks is no CUDA graph; set "
            "networks.norm=group, or networks.compile=inductor"
        )
    generator.compile(**COMPILERS[way])
    # Its shapes are those of a step, and its small matrices are constants of theirs.
    return torch.compile(objective.terms, dynamic=False, **COMPILERS[way])  # type: ignore


def begin_step(way: str) -> None:
    """Nothing that graphs gave in the last step is read any more."""
    if way == "graphs":
        torch.compiler.cudagraph_mark_step_begin()
