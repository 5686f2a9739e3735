"""What this machine can do at best, and the line of JSON that every benchmark ends with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import torch

from data_shards.cores import cores


def gemm_peak(*, seconds: float = 2.0, size: int = 1536) -> float:
    """Best float32 GFLOP/s of square matrix products with the current number of threads."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def work_of(seconds: float) -> Callable[[], None]:
    """Matrix products that take so long on this machine now, with the current number of threads;
    found in two seconds of them, of which the first does not count: idle cores begin slowly."""
    a = torch.randn(512, 512)
    for _ in range(2):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < 1:
            torch.mm(a, a)
            done += 1
    products = max(1, int(seconds * done / (time.perf_counter() - start)))

    def work() -> None:
        for _ in range(products):
            torch.mm(a, a)

    return work


def describe() -> dict[str, object]:
    """Cores, threads and torch's version, for the line of JSON."""
    return {
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def line(benchmark: str, **figures: Any) -> str:
    """The last line of a benchmark: its name, the machine, its figures."""
    return json.dumps({"benchmark": benchmark, **describe(), **figures})
