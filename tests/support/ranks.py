"""Real ranks for tests: `run_ranks(fn, world, *args)` runs `fn(comm, *args)` in gloo processes.

The processes are forked from a server that has torch loaded, meet through a file in a temporary
folder (no ports are chosen) and compute with one thread. A world of one runs in this process.
`fn` is a function of a module; arguments and results are plain values, arrays and tensors.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from trainer.comm import Comm

CONTEXT = multiprocessing.get_context("forkserver")


class RankError(AssertionError):
    """A rank raised, or left without an answer; the message holds its traceback."""


class _Array(NamedTuple):
    """A tensor on its way between processes: bytes, not a file descriptor that must stay open."""

    array: Any


def run_ranks(fn: Callable[..., Any], world: int, *args: Any, timeout: float = 240.0) -> list[Any]:
    """Results of `fn(comm, *args)` by rank; `RankError` with the traceback of a rank that failed.

    A process that aborts after it has delivered its result (gloo does so at exit now and then)
    is no failure.
    """
    if world == 1:
        return [_alone(fn, args)]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "trainer.comm"])
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pipes, processes = [], []
        for rank in range(world):
            mine, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(
                target=_rank_main,
                args=(theirs, fn, rank, world, str(Path(folder) / "store"), _pack(args)),
                daemon=True,
            )
            process.start()
            theirs.close()
            pipes.append(mine)
            processes.append(process)
        try:
            return _collect(pipes, time.monotonic() + timeout)
        finally:
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()


def _alone(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fn(Comm(), *args)
    finally:
        torch.set_num_threads(threads)


def _collect(pipes: list[Connection], deadline: float) -> list[Any]:
    """Wait for one answer a rank; the first failure ends the wait."""
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        open_pipes = [p for rank, p in enumerate(pipes) if rank not in results]
        ready = wait(open_pipes, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankError(f"ranks {set(range(len(pipes))) - set(results)} gave no answer in time")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                worked, value = pipes[rank].recv()
            except EOFError:
                raise RankError(f"rank {rank} of {len(pipes)} died without an answer") from None
            if not worked:
                raise RankError(f"rank {rank} of {len(pipes)} raised:\n{value}")
            results[rank] = _unpack(value)
    return [results[rank] for rank in range(len(pipes))]


def _rank_main(
    pipe: Connection, fn: Callable[..., Any], rank: int, world: int, store: str, args: Any
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(store, world),
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=120),
        )
        answer = (True, _pack(fn(Comm.from_environment(), *_unpack(args))))
    except BaseException:
        answer = (False, traceback.format_exc())
    try:
        pipe.send(answer)
    except OSError as error:
        print(f"rank {rank}: nobody is left to tell: {error}", file=sys.stderr)
    with suppress(EOFError, OSError):  # the parent hangs up when it has every answer:
        pipe.recv()  # an early exit breaks the others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """`value` with `leaf` applied to everything that is not a container."""
    if isinstance(value, dict):
        return {k: _walk(v, leaf) for k, v in value.items()}
    if isinstance(value, list):
        return [_walk(v, leaf) for v in value]
    if isinstance(value, tuple) and not isinstance(value, _Array):
        parts = [_walk(v, leaf) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return leaf(value)


def _pack(value: Any) -> Any:
    return _walk(
        value, lambda v: _Array(v.detach().cpu().numpy()) if isinstance(v, torch.Tensor) else v
    )


def _unpack(value: Any) -> Any:
    return _walk(value, lambda v: torch.from_numpy(v.array) if isinstance(v, _Array) else v)
