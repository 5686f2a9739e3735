"""Where a program that works alone computes: on the first GPU that it sees, else on the CPU."""

from __future__ import annotations

import torch


def compute_in_(precision: str) -> None:
    """How a GPU multiplies float32 numbers: exactly (`no`), or in TF32, which cuDNN would take for
    convolutions and recurrences by itself."""
    torch.set_float32_matmul_precision("highest" if precision == "no" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "no"


def own_device() -> torch.device:
    """`CUDA_VISIBLE_DEVICES=` (empty) hides all GPUs, one beside a training, say.

    Float32 is exact there, unless a training of this process has asked for TF32.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.get_float32_matmul_precision() == "highest":
        compute_in_("no")
    return torch.device("cuda")
