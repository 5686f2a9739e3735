"""How ranks divide the parameters of a module: pure arithmetic on shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

ALIGNED = 16
"""Floats of a cache line; every tensor starts a new one."""


class Piece(NamedTuple):
    """Rows `first:last` (along dimension 0, the outermost in memory) of a parameter, by number."""

    param: int
    first: int
    last: int

    def of(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The piece of the tensor that belongs to its parameter."""
        return tensors[self.param][self.first : self.last]


def deal(shapes: Mapping[int, torch.Size], world: int) -> list[list[Piece]]:
    """Pieces of each rank: whole rows, as even a split of all numbers as rows allow."""
    total = sum(shape.numel() for shape in shapes.values())
    edges = [total * rank // world for rank in range(world + 1)]
    dealt: list[list[Piece]] = [[] for _ in range(world)]
    begin = 0
    for number, shape in shapes.items():
        row = shape.numel() // shape[0]
        cuts = [min(max(round((edge - begin) / row), 0), shape[0]) for edge in edges]
        for rank, (first, last) in enumerate(pairwise(cuts)):
            if first < last:
                dealt[rank].append(Piece(number, first, last))
        begin += shape.numel()
    return dealt


def layout(params: Sequence[torch.Tensor]) -> tuple[list[int], int]:
    """Where each tensor begins in a slab of floats, and the slab's length."""
    sizes = [-(-param.numel() // ALIGNED) * ALIGNED for param in params]
    return [0, *accumulate(sizes)][:-1], sum(sizes)
