"""Bytes of a video as latents, as JPEGs and as H.264, with what comes back out of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import av
import numpy as np
import torch
from PIL import Image

from trainer.projections import low_rank


class Stored(NamedTuple):
    """A latent code as it is stored: bytes, and the values that are read back."""

    bytes: int
    values: torch.Tensor


def as_float32(values_XM: torch.Tensor) -> Stored:
    """As trained."""
    return Stored(4 * values_XM.numel(), values_XM)


def as_float16(values_XM: torch.Tensor) -> Stored:
    """Half precision."""
    return Stored(2 * values_XM.numel(), values_XM.half().float())


def as_int8(values_XM: torch.Tensor) -> Stored:
    """A byte a value, and for every vector its scale in half precision."""
    peak_X1 = values_XM.abs().amax(dim=-1, keepdim=True)
    scale_X1 = (peak_X1 / 127).half().float().clamp_min(2.0**-24)
    whole = (values_XM / scale_X1).round().clamp(-127, 127)
    return Stored(values_XM.numel() + 2 * peak_X1.numel(), whole * scale_X1)


def as_rank(rank: int) -> Callable[[torch.Tensor], Stored]:
    """The top `rank` directions of a (T, M) matrix, both factors in half precision.

    A vector (one row) and a matrix that is not made smaller so are stored in half precision.
    """

    def store(values_XM: torch.Tensor) -> Stored:
        rows, width = values_XM.shape[-2:] if values_XM.ndim > 1 else (1, values_XM.shape[-1])
        if rank * (rows + width) >= rows * width:
            return as_float16(values_XM)
        left, singular, right = torch.linalg.svd(
            low_rank(values_XM, rank).double(), full_matrices=False
        )
        first = (left[:, :rank] * singular[:rank].sqrt()).half().float()
        second = (singular[:rank].sqrt()[:, None] * right[:rank]).half().float()
        return Stored(2 * rank * (rows + width), first @ second)

    return store


FORMS: dict[str, Callable[[torch.Tensor], Stored]] = {
    "float32": as_float32,
    "float16": as_float16,
    "int8": as_int8,
    "rank 8, float16": as_rank(8),
    "rank 4, float16": as_rank(4),
    "rank 2, float16": as_rank(2),
}


class Coded(NamedTuple):
    """A video through a codec."""

    bytes: int
    frames_THWC: np.ndarray


def jpeg(frames_THWC: np.ndarray, *, quality: int) -> Coded:
    """Every frame as a JPEG with optimised tables."""
    size, decoded = 0, []
    for frame in frames_THWC:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, format="JPEG", quality=quality, optimize=True)
        size += buffer.tell()
        decoded.append(np.asarray(Image.open(buffer).convert("RGB")))
    return Coded(size, np.stack(decoded))


def h264(frames_THWC: np.ndarray, *, crf: int) -> Coded:
    """A raw H.264 stream (x264, preset slow, yuv420p), without any container and without the text
    of some 700 bytes in which x264 writes down its own settings."""
    made = io.BytesIO()
    with av.open(made, "w", format="h264") as file:
        options = {"crf": str(crf), "preset": "slow", "threads": "1"}
        stream = file.add_stream("libx264", rate=Fraction(25), options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames_THWC:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    data = without_notes(made.getvalue())
    with av.open(io.BytesIO(data), "r", format="h264") as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return Coded(len(data), np.stack(decoded))


def without_notes(data: bytes) -> bytes:
    """An H.264 byte stream (Annex B) without its supplemental information (NAL units of type 6),
    which no decoder needs."""
    starts = [found.start() for found in re.finditer(rb"\x00{2,3}\x01", data)]
    units = [data[first:last] for first, last in pairwise([*starts, len(data)])]
    return b"".join(unit for unit in units if unit.lstrip(b"\x00")[1] & 31 != 6)
