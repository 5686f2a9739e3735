"""The only user of `torch.distributed`: the collectives of the project, for one process or many.

A `Comm` without a process group is a world of one: every method works and copies nothing. Objects
travel as JSON bytes, never as pickles. Tensors may live anywhere; they are moved to the backend's
device for the journey (the accelerator under NCCL, memory under gloo) and come back where they
were. On one machine, messages between CPUs do not go through gloo but over `links`; large
sums do.
`bytes_sent` counts what this rank put on the wire, per kind of collective.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from trainer.links import Links, connect

MAX_DIMS = 8
SUM, MAX = dist.ReduceOp.SUM, dist.ReduceOp.MAX
LINKED_BYTES = 1 << 18
"""What a rank sends at most for a sum that goes from each to every other; larger: a ring."""


class Comm:
    """Collectives of one group of ranks. Every rank calls the same methods in the same order."""

    def __init__(
        self, *, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None,
        timeout_seconds: float = 1800.0,
    ) -> None:  # fmt: skip
        """A world of one, or the ranks of `group`.

        Args:
            device: where this rank computes.
            timeout_seconds: how long a rank may keep the others waiting.
        """
        self.device = torch.device(device)
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world = 1 if group is None else dist.get_world_size(group)
        self.bytes_sent: Counter[str] = Counter()
        nccl = group is not None and "nccl" in dist.get_backend(group)
        self._wire = self.device if nccl else torch.device("cpu")
        self.links: Links | None = None
        """Connections between the ranks of one machine."""
        if self.world > 1 and not nccl:
            self.links = connect(
                self.rank, self.world, self.gather_json, timeout_seconds=timeout_seconds
            )

    @classmethod
    def from_environment(
        cls, *, device: torch.device | str = "cpu", timeout_seconds: float = 1800.0
    ) -> Comm:
        """The default process group where one is initialised, else a world of one."""
        ready = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        group = dist.group.WORLD if ready else None
        return cls(device=device, group=group, timeout_seconds=timeout_seconds)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` by its sum over ranks, in place; returns it."""
        return self._reduce_(tensor, SUM, kind="sum")

    def max_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace `tensor` by its elementwise maximum over ranks, in place; returns it."""
        return self._reduce_(tensor, MAX, kind="max")

    def broadcast_(self, tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
        """Replace `tensor` by rank `src`'s, in place; returns it."""
        if self.world == 1:
            return tensor
        wire = self._to_wire(tensor)
        dist.broadcast(wire, group=self.group, group_src=src)
        if self.rank == src:
            self.bytes_sent["broadcast"] += _nbytes(tensor) * (self.world - 1)
        return _copy_back(tensor, wire)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.links is not None:
            self.links.exchange([b""] * self.world)
        elif self.world > 1:
            token = torch.zeros(1, device=self._wire)
            dist.all_reduce(token, group=self.group)
            token.item()  # NCCL returns before the others are here

    def gather_tensors(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's tensor, by rank; shapes may differ, also in rank, the dtype may not."""
        if self.world == 1:
            return [tensor]
        header = torch.full((MAX_DIMS + 1,), 0, dtype=torch.int64)
        header[0] = tensor.ndim
        header[1 : tensor.ndim + 1] = torch.tensor(tensor.shape, dtype=torch.int64)
        if self.links is not None:
            message = torch.cat([_as_bytes(header), _as_bytes(self._to_wire(tensor))])
            self.bytes_sent["gather"] += len(message) * (self.world - 1)
            return [
                _from_bytes(raw[header.nbytes :], tensor.dtype, _shape(raw[: header.nbytes]))
                .to(tensor.device)
                for raw in self._link([message] * self.world)
            ]  # fmt: skip
        shapes = [_shape(_as_bytes(h.cpu())) for h in self._all_gather(header)]
        item = tensor.element_size()
        sizes = [item * _count(shape) for shape in shapes]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self._wire)
        padded[: sizes[self.rank]] = _as_bytes(self._to_wire(tensor))
        self.bytes_sent["gather"] += sizes[self.rank] * (self.world - 1)
        everyone = self._all_gather(padded)
        return [
            _from_bytes(raw[:size], tensor.dtype, shape).to(tensor.device)
            for raw, size, shape in zip(everyone, sizes, shapes, strict=True)
        ]

    def gather_json(self, value: Any) -> list[Any]:
        """Every rank's JSON-able value, by rank."""
        if self.world == 1:
            return [json.loads(json.dumps(value))]
        raw = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(t.tolist()).decode()) for t in self.gather_tensors(raw)]

    def count_gradients_(self, module: nn.Module) -> None:
        """Count what a DistributedDataParallel module sends, as `gradients`."""
        assert isinstance(module, DistributedDataParallel)

        def hook(group, bucket):  # torch refuses annotations that are text
            self._count_sum(bucket.buffer(), kind="gradients")
            return allreduce_hook(group, bucket)

        module.register_comm_hook(self.group, hook)

    def exchange(
        self, parts: Sequence[torch.Tensor], *, receive: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        """All-to-all: `parts[r]` goes to rank r; returns what each rank sent here, by rank.

        The parts share dtype and trailing shape, which are the same on every rank; first
        dimensions are free and may be 0. `receive` gives the first dimensions that will arrive
        where the caller knows them, which saves a message.
        """
        if len(parts) != self.world:
            raise ValueError(f"exchange needs {self.world} parts, got {len(parts)}")
        if self.world == 1:
            return list(parts)
        send = [int(p.shape[0]) for p in parts]
        got = list(receive) if receive is not None else self._exchange_counts(send)
        trail = tuple(parts[0].shape[1:])
        row = _count(trail) * parts[0].element_size()
        flat = _as_bytes(self._to_wire(torch.cat(list(parts))))
        if self.links is not None:
            out = torch.cat(self._link(flat.split([n * row for n in send])))
        else:
            out = torch.empty(sum(got) * row, dtype=torch.uint8, device=self._wire)
            dist.all_to_all_single(
                out, flat, [n * row for n in got], [n * row for n in send], group=self.group
            )
        self.bytes_sent["exchange"] += (sum(send) - send[self.rank]) * row
        whole = _from_bytes(out, parts[0].dtype, (sum(got), *trail)).to(parts[0].device)
        return list(whole.split(got))

    def _exchange_counts(self, send: list[int]) -> list[int]:
        counts = torch.tensor(send, dtype=torch.int64, device=self._wire)
        if self.links is not None:
            self.bytes_sent["exchange"] += 8 * (self.world - 1)
            arrived = self._link(_as_bytes(counts).split(8))
            return torch.cat(arrived).view(torch.int64).tolist()
        out = torch.empty(self.world, dtype=torch.int64, device=self._wire)
        dist.all_to_all_single(out, counts, group=self.group)
        self.bytes_sent["exchange"] += 8 * (self.world - 1)
        return out.tolist()

    def _link(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What each rank sent here, as bytes; `parts` are bytes, too."""
        assert self.links is not None
        arrived = self.links.exchange([part.numpy() for part in parts])
        empty = torch.empty(0, dtype=torch.uint8)
        return [torch.frombuffer(raw, dtype=torch.uint8) if raw else empty for raw in arrived]

    def _all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        wire = tensor.to(self._wire)
        out = [torch.empty_like(wire) for _ in range(self.world)]
        dist.all_gather(out, wire, group=self.group)
        return out

    def _reduce_(self, tensor: torch.Tensor, op: Any, *, kind: str) -> torch.Tensor:
        if self.world == 1:
            return tensor
        wire = self._to_wire(tensor)
        if self.links is not None and _nbytes(wire) * (self.world - 1) <= LINKED_BYTES:
            arrived = self._link([_as_bytes(wire)] * self.world)
            everyone = torch.stack([_from_bytes(raw, wire.dtype, wire.shape) for raw in arrived])
            wire = everyone.sum(0, dtype=wire.dtype) if op == SUM else everyone.amax(0)
            self.bytes_sent[kind] += _nbytes(wire) * (self.world - 1)
        else:
            dist.all_reduce(wire, op=op, group=self.group)
            self._count_sum(tensor, kind=kind)
        return _copy_back(tensor, wire)

    def _count_sum(self, tensor: torch.Tensor, *, kind: str) -> None:
        # A ring sends every element twice, less its own share.
        self.bytes_sent[kind] += 2 * _nbytes(tensor) * (self.world - 1) // self.world

    def _to_wire(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self._wire).contiguous()


def _copy_back(tensor: torch.Tensor, wire: torch.Tensor) -> torch.Tensor:
    """Give `tensor` what came back, unless the collective already wrote into it."""
    if wire.data_ptr() != tensor.data_ptr() or wire.device != tensor.device:
        with torch.no_grad():
            tensor.copy_(wire)
    return tensor


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shape(header: torch.Tensor) -> tuple[int, ...]:
    """The shape that a header's bytes tell of."""
    numbers = header.view(torch.int64).tolist()
    return tuple(numbers[1 : numbers[0] + 1])


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _from_bytes(raw: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if raw.storage_offset() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).reshape(shape)
