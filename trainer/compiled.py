"""The generator and the objective through torch.compile (`networks.compile`).

The motion RNN stays as it is: on a GPU it is one call of cuDNN. Neither of the two reads anything
back to the host, so either can be replayed as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from data_shards.errors import UserError
from trainer import objective
from trainer.networks import COMPILERS


def compile_(
    generator: nn.Module, way: str, *, device: torch.device
) -> Callable[..., objective.LossTerms]:
    """Have the generator compiled in place; the objective, compiled alike.

    Raises:
        UserError: CUDA graphs without a GPU.
    """
    if way == "no":
        return objective.terms
    if way == "graphs" and device.type != "cuda":
        raise UserError("networks.compile: graphs needs a GPU; set networks.compile=no")
    generator.compile(**COMPILERS[way])
    return torch.compile(objective.terms, **COMPILERS[way])  # type: ignore[call-overload]


def begin_step(way: str) -> None:
    """Nothing that graphs gave in the last step is read any more."""
    if way == "graphs":
        torch.compiler.cudagraph_mark_step_begin()
