"""Where a program that works alone computes: on the first GPU that it sees, else on the CPU."""

from __future__ import annotations

import torch


def own_device() -> torch.device:
    """`CUDA_VISIBLE_DEVICES=` (empty) hides all GPUs, one beside a training, say."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
