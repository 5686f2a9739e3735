"""Ranks of one machine without GPUs train weights that lie in memory which all of them see.

It takes the place of both `Parallel` and `NetworkOptimiser` where sending gradients costs more than
the arithmetic: weights, moments and averages exist once, every rank puts its gradients where the
others read them, and moves its own share of all weights (as ZeRO stage 1 does, without sending).
Checkpoints are those of any other run.

A step: backward, `norms` (hand over gradients, wait, add up the own share), `step` (move the own
share), `settle` (wait until all shares have moved).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch

from data_shards.errors import UserError
from trainer.batchnorm import share_batch_norms_
from trainer.comm import Comm
from trainer.networks import NavSynth
from trainer.optim import GROUPS, OptimConfig, make_adam
from trainer.parallel import Ranks
from trainer.pieces import Piece, deal, layout
from trainer.segment import share_memory

MOMENTS = ("exp_avg", "exp_avg_sq")
Views = list[torch.Tensor]
"""A tensor of each parameter, in the order of `networks.parameters()`."""


def kinds_of(world: int) -> list[str]:
    """Slabs of the memory: one float for every parameter in each."""
    return ["weight", *MOMENTS, "average", *(f"gradient {rank}" for rank in range(world))]


def shared_memory(networks: NavSynth, ranks: Ranks, *, way: str) -> torch.Tensor | None:
    """The memory of `Shared`; None, on every rank, where gradients are sent.

    Args:
        way: `train.gradients`: auto | memory | send.

    Raises:
        UserError: memory is asked for, and there is none that all ranks see.
    """
    comm = ranks.comm
    able = comm.world > 1 and comm.device.type == "cpu" and not ranks.zero
    memory = None
    if able and way != "send":
        _, floats = layout(list(networks.parameters()))
        memory = share_memory(4 * floats * len(kinds_of(comm.world)), comm)
    if way == "memory" and memory is None:
        raise UserError(
            "train.gradients: memory needs several processes on one Linux machine, without GPUs "
            "and DeepSpeed; set auto"
        )
    return memory


class _Group:
    """One network's parameters, and which pieces of them a rank moves."""

    def __init__(self, numbers: Sequence[int], slabs: dict[str, Views], comm: Comm) -> None:
        self.numbers, self.rank = numbers, comm.rank
        self._gradients = [slabs[f"gradient {rank}"] for rank in range(comm.world)]
        dealt = deal({i: slabs["weight"][i].shape for i in numbers}, comm.world)
        self.own = dealt[comm.rank]
        self._others = [p for rank, found in enumerate(dealt) if rank != comm.rank for p in found]
        self.given = sum(4 * piece.of(slabs["weight"]).numel() for piece in self._others)
        """Bytes of gradients that this rank hands to others in a step."""
        self.weights = [piece.of(slabs["weight"]) for piece in self.own]

    def hand_over(self, grads: Views) -> None:
        """Put the gradients of what other ranks move where those read them."""
        mine = self._gradients[self.rank]
        for piece in self._others:
            piece.of(mine).copy_(piece.of(grads))

    def add_up(self, grads: Views) -> torch.Tensor:
        """Sum the own pieces' gradients in the order of ranks; returns their sum of squares."""
        squares = []
        for piece, weight in zip(self.own, self.weights, strict=True):
            total = piece.of(grads)
            others = [piece.of(slab) for slab in self._gradients]
            before, after = others[: self.rank], others[self.rank + 1 :]
            for other in before[1:]:
                before[0].add_(other)
            for other in before[:1] + after:
                total.add_(other)
            # Fused Adam takes numbers as they lie in memory.
            assert total.stride() == weight.stride()
            weight.grad = total
            squares.append(torch.linalg.vector_norm(total).double().square())
        return torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)


class Shared:
    """Networks and optimiser in memory that the ranks share."""

    loss_scale = 1.0
    """What gradients of latents are too large by."""

    def __init__(
        self, networks: NavSynth, ranks: Ranks, *, config: OptimConfig, memory: torch.Tensor
    ) -> None:
        """`memory`: from `shared_memory`; the weights are rank 0's."""
        self.config, self.comm, self._networks = config, ranks.comm, networks
        share_batch_norms_(networks.generator, ranks.comm)
        self._params = list(networks.parameters())
        starts, _ = layout(self._params)
        kinds = kinds_of(self.comm.world)
        self._slabs: dict[str, Views] = {
            kind: [
                slab[start:].as_strided(param.shape, param.stride())
                for start, param in zip(starts, self._params, strict=True)
            ]
            for kind, slab in zip(
                kinds, memory.view(torch.float32).view(len(kinds), -1), strict=True
            )
        }
        for param, view in zip(self._params, self._slabs["weight"], strict=True):
            if self.comm.rank == 0:
                view.copy_(param.detach())
            param.data = view
        numbers = {id(param): number for number, param in enumerate(self._params)}
        members = {"gamma": networks.gamma(), "theta": networks.theta()}
        self._groups = {
            group: _Group([numbers[id(param)] for param in members[group]], self._slabs, self.comm)
            for group in GROUPS
        }
        # A rank may have no piece of a small network.
        self._adam = {
            name: make_adam(group.weights, config=config)
            for name, group in self._groups.items()
            if group.own
        }
        self._forget()
        self.settle()

    @property
    def average(self) -> tuple[Views, list[Piece]]:
        """Memory for an average of each parameter, and the pieces that this rank keeps."""
        own = [piece for group in GROUPS for piece in self._groups[group].own]
        return self._slabs["average"], own

    @contextmanager
    def moving(self, moves: frozenset[str]) -> Iterator[NavSynth]:
        """The networks with gradients for the groups that this stage moves, and for no other."""
        for name, group in self._groups.items():
            for number in group.numbers:
                self._params[number].requires_grad_(name in moves)
        yield self._networks

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Gradients of micro-batches add up on their rank."""
        yield

    def backward(self, total: torch.Tensor) -> None:
        """Add the gradients of a rank's part of the global loss."""
        total.backward()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for tensor in chain(self._params, *(group.weights for group in self._groups.values())):
            tensor.grad = None

    @torch.no_grad()
    def norms(self, moves: frozenset[str]) -> dict[str, torch.Tensor]:
        """Add up the ranks' gradients; L2 norm of each group's, clipped where asked for."""
        moving = {name: self._groups[name] for name in GROUPS if name in moves}
        if not moving:
            return {}
        grads = [param.grad for param in self._params]
        for group in moving.values():
            for number in group.numbers:
                if grads[number] is None:  # this rank had no clip
                    grads[number] = torch.zeros_like(self._params[number])
            group.hand_over(grads)  # type: ignore[arg-type]
            self.comm.bytes_sent["gradients"] += group.given
        self.comm.barrier()
        squares = [group.add_up(grads) for group in moving.values()]  # type: ignore[arg-type]
        norms = self.comm.sum_(torch.stack(squares)).sqrt().float()
        if self.config.clip:
            for group, norm in zip(moving.values(), norms, strict=True):
                factor = (self.config.clip / (norm + 1e-6)).clamp(max=1.0)
                for weight in group.weights:
                    weight.grad.mul_(factor)  # type: ignore[union-attr]
        return dict(zip(moving, norms, strict=True))

    def step(self, moves: frozenset[str], *, factor: float) -> None:
        """Move this rank's share of the groups of this stage, rates times `factor`."""
        rates = {"gamma": self.config.gamma_rate, "theta": self.config.theta_rate}
        for name in GROUPS:
            if name in moves and name in self._adam:
                self._adam[name].param_groups[0]["lr"] = rates[name] * factor
                self._adam[name].step()
            self._steps[name] += name in moves

    def settle(self) -> None:
        """Wait until every rank has written what it moves."""
        self.comm.barrier()

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and step counts as `NetworkOptimiser` names them."""
        flat = {}
        for name, group in self._groups.items():
            for i, number in enumerate(group.numbers if self._steps[name] else ()):
                flat[f"{name}.{i:04d}.step"] = torch.tensor(float(self._steps[name]))
                for moment in MOMENTS:
                    flat[f"{name}.{i:04d}.{moment}"] = self._slabs[moment][number]
        return flat

    @torch.no_grad()
    def load(self, flat: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave; all ranks write the same numbers."""
        self._forget()
        for name, group in self._groups.items():
            if f"{name}.0000.step" not in flat:
                continue  # it has not moved yet
            self._steps[name] = int(flat[f"{name}.0000.step"])
            for i, number in enumerate(group.numbers):
                for moment in MOMENTS:
                    self._slabs[moment][number].copy_(flat[f"{name}.{i:04d}.{moment}"])
            for state in self._adam[name].state.values() if name in self._adam else ():
                state["step"].fill_(self._steps[name])

    def _forget(self) -> None:
        """Moments of nought, in the shared memory."""
        self._steps: dict[str, int] = dict.fromkeys(GROUPS, 0)
        for name, group in self._groups.items():
            for piece, weight in zip(group.own, group.weights, strict=True):
                moments = {moment: piece.of(self._slabs[moment]).zero_() for moment in MOMENTS}
                self._adam[name].state[weight] = {"step": torch.zeros(()), **moments}
