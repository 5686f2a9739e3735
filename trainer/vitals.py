"""What a process takes from its machine: memory, processor time, disk, GPU. No library needed."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_unseen: set[str] = set()
"""GPUs whose use nothing tells; each is warned of once."""
log = logging.getLogger("navsynth")


def memory_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def age_seconds() -> float | None:
    """Seconds since this process was started; None where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


def process_figures(device: torch.device) -> dict[str, float]:
    """Figures of this rank: cpu_seconds, memory/process, and of its GPU where it has one."""
    found = {"cpu_seconds": time.process_time()}
    memory = memory_bytes()
    if memory is not None:
        found["memory/process"] = memory
    if device.type == "cuda":
        found["memory/gpu"] = torch.cuda.memory_reserved(device)
        if (use := gpu_utilisation(device)) is not None:
            found["gpu_utilisation"] = use
    return found


def gpu_utilisation(device: torch.device) -> float | None:
    """Use of a GPU, 0 to 1; None without nvidia-ml-py, and where the driver does not tell (a part
    of a GPU, a container without NVML), which is no reason to end a training: said once."""
    if str(device) in _unseen or not importlib.util.find_spec("pynvml"):
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception as error:  # NVML has exceptions of its own, one for each reason
        _unseen.add(str(device))
        log.warning("%s: its use is not shown: %s", device, error)
        return None


def disk_figures(folder: Path) -> dict[str, float]:
    """Free bytes and size of the disk that holds a folder."""
    usage = shutil.disk_usage(folder)
    return {"navsynth_disk_free_bytes": usage.free, "navsynth_disk_size_bytes": usage.total}


def own_version() -> str:
    """Of navsynth; a checkout on PYTHONPATH has none."""
    try:
        return version("navsynth")
    except PackageNotFoundError:
        return "not installed"
