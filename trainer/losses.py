"""The losses of Eqs. 4 to 6 and Sec. 4.2, as pure functions of tensors.

Shapes: `X` any leading dimensions, `B` clips, `F` frames drawn of a clip, `T` all its frames, `A`
anchors, `M` transient width, `C H W` a frame. Pixels are in [-1, 1]. docs/model.md has the
equations, and says where the printed paper is read differently and why.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Burt and Adelson's generating kernel with a = 3/8; its outer product is the 5x5 one."""


class Triplets(NamedTuple):
    """Frame indices of the triplet condition (Sec. 3.2.1): a row per clip, a column per anchor."""

    anchor_BA: torch.Tensor
    positive_BA: torch.Tensor
    negative_BA: torch.Tensor
    valid_BA: torch.Tensor
    """False where a clip is too short for the anchor to have a positive and a negative."""


def laplacian_pyramid(images_XCHW: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Laplacian pyramid of Burt and Adelson (1983): `levels - 1` bands and the low-pass residual.

    A level is half the one before (rounded up); borders are replicated. Blur with decimation, and
    expansion, are one small matrix per axis, so both are matrix products: fast on any device, the
    same for every memory format, exactly linear.

    Args:
        images_XCHW: floating point, any leading dimensions, also none.
        levels: at least 1; with 1 the image itself is the residual.
    """
    if levels < 1:
        raise ValueError(f"levels: {levels} is below 1")
    pyramid, current = [], images_XCHW.contiguous()
    for _ in range(levels - 1):
        rows, columns = current.shape[-2:]
        small = _shrink(rows, current.dtype, current.device) @ (
            current @ _shrink(columns, current.dtype, current.device).mT
        )
        wide = _expand(rows, current.dtype, current.device) @ (
            small @ _expand(columns, current.dtype, current.device).mT
        )
        pyramid.append(current - wide)
        current = small
    return [*pyramid, current]


def reconstruction(
    fake_XCHW: torch.Tensor, real_XCHW: torch.Tensor, *, levels: int
) -> torch.Tensor:
    """l_rec of every frame: sum over pyramid levels of the mean absolute difference (Sec. 4.2).

    The pyramid is linear: that of the difference is taken once, instead of two. Computed in float32
    or better, also under autocast.

    Returns:
        Loss with shape X, the leading dimensions.
    """
    with torch.autocast(fake_XCHW.device.type, enabled=False):
        difference_XCHW = _at_least_float32(fake_XCHW) - _at_least_float32(real_XCHW)
        bands = laplacian_pyramid(difference_XCHW, levels)
        return torch.stack([band.abs().mean(dim=(-3, -2, -1)) for band in bands]).sum(dim=0)


def static(
    fake_BFCHW: torch.Tensor, real_BFCHW: torch.Tensor, frame_B: torch.Tensor, *, levels: int
) -> torch.Tensor:
    """l_static of every clip (Eq. 4): the reconstruction loss of its frame k alone.

    Args:
        fake_BFCHW: generated frames.
        real_BFCHW: true ones.
        frame_B: k, int64 in [0, F).
        levels: of the pyramid.

    Returns:
        Loss (B,).
    """
    clip_B = torch.arange(frame_B.shape[0], device=frame_B.device)
    return reconstruction(
        fake_BFCHW[clip_B, frame_B], real_BFCHW[clip_B, frame_B], levels=levels
    )  # fmt: skip


def draw_triplets(
    batch: int, frames: int, *, radius: int, gap: int, generator: torch.Generator | None = None
) -> Triplets:
    """Draw a positive and a negative for every frame of every clip, each frame being anchor once.

    Positives are uniform among the other frames within `radius` of the anchor, negatives among
    those more than `gap` away. An anchor without either (clips of few frames) is marked invalid
    and points at itself.

    Returns:
        Index tensors (B, T), int64, on the CPU.
    """
    if radius < 1 or gap < radius:
        raise ValueError(f"1 <= radius <= gap is needed, got {radius} and {gap}")
    frame_T = torch.arange(frames)
    distance_TT = (frame_T[:, None] - frame_T).abs()
    near_TT, far_TT = (distance_TT > 0) & (distance_TT <= radius), distance_TT > gap
    valid_T = near_TT.any(dim=1) & far_TT.any(dim=1)
    anchor_BT = frame_T.expand(batch, frames)
    positive_BT, negative_BT = (
        torch.where(valid_T, _pick(allowed_TT, batch, generator), anchor_BT)
        for allowed_TT in (near_TT, far_TT)
    )
    return Triplets(anchor_BT, positive_BT, negative_BT, valid_T.expand(batch, frames))


def semi_hard(codes_BTM: torch.Tensor, triplets: Triplets, *, gap: int) -> Triplets:
    """The same anchors and positives with semi-hard negatives (FaceNet, as the authors' code has).

    Of the frames more than `gap` from the anchor: the nearest one that is farther than the
    positive; where none is, the farthest. The choice carries no gradient.
    """
    with torch.no_grad():
        anchor_BAM = _frames_of(codes_BTM, triplets.anchor_BA)
        positive_BA1 = _length(
            anchor_BAM - _frames_of(codes_BTM, triplets.positive_BA), squared=True
        )[..., None]
        length_BAT = _length(anchor_BAM[:, :, None] - codes_BTM[:, None], squared=True)
        frame_T = torch.arange(codes_BTM.shape[1], device=codes_BTM.device)
        far_BAT = (frame_T - triplets.anchor_BA[..., None]).abs() > gap
        semi_BAT = far_BAT & (length_BAT > positive_BA1)
        nearest_BA = length_BAT.masked_fill(~semi_BAT, float("inf")).argmin(dim=-1)
        farthest_BA = length_BAT.masked_fill(~far_BAT, -1.0).argmax(dim=-1)
        negative_BA = torch.where(semi_BAT.any(dim=-1), nearest_BA, farthest_BA)
    negative_BA = torch.where(triplets.valid_BA, negative_BA, triplets.negative_BA)
    return triplets._replace(negative_BA=negative_BA)


def triplet(
    codes_BTM: torch.Tensor, triplets: Triplets, *, margin: float, squared: bool = True
) -> torch.Tensor:
    """l_triplet of every clip (Eq. 6): mean of max(d(a, p) + margin - d(a, n), 0) over its anchors.

    Args:
        codes_BTM: transient codes, z^(t) or the output of R.
        triplets: from `draw_triplets`; invalid anchors count neither above nor below the line.
        margin: of the hinge (alpha).
        squared: squared distances as printed, or distances as in the authors' code.

    Returns:
        Loss (B,); zero for a clip without a valid anchor.
    """
    codes_BTM = _at_least_float32(codes_BTM)
    anchor_BAM, positive_BAM, negative_BAM = (
        _frames_of(codes_BTM, index_BA) for index_BA in triplets[:3]
    )
    near_BA = _length(anchor_BAM - positive_BAM, squared=squared)
    far_BA = _length(anchor_BAM - negative_BAM, squared=squared)
    hinge_BA = (near_BA + margin - far_BA).clamp_min(0) * triplets.valid_BA
    return hinge_BA.sum(dim=1) / triplets.valid_BA.sum(dim=1).clamp_min(1)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _frames_of(codes_BTM: torch.Tensor, index_BA: torch.Tensor) -> torch.Tensor:
    return codes_BTM.gather(1, index_BA[..., None].expand(*index_BA.shape, codes_BTM.shape[2]))


def _length(vectors_XM: torch.Tensor, *, squared: bool) -> torch.Tensor:
    # vector_norm has the gradient 0 at 0, where a square root of a sum has none.
    return (
        vectors_XM.square().sum(dim=-1) if squared else torch.linalg.vector_norm(vectors_XM, dim=-1)
    )


def _pick(
    allowed_TT: torch.Tensor, batch: int, generator: torch.Generator | None
) -> torch.Tensor:  # fmt: skip
    """One allowed column for every row of every clip, uniform; rows without any give nonsense."""
    count_T = allowed_TT.sum(dim=1)
    column_TT = allowed_TT.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    chance_TB = torch.rand(batch, len(count_T), generator=generator, dtype=torch.float64).T
    nth_TB = (chance_TB * count_T[:, None]).long()
    return column_TT.gather(1, nth_TB).T


def _shrink(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Blur and keep every second sample: (ceil(size / 2), size)."""
    return _kept(size, dtype, device, wider=False)


def _expand(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Put zeros between samples and blur times two: (size, ceil(size / 2))."""
    return _kept(size, dtype, device, wider=True)


def _kept(size: int, dtype: torch.dtype, device: torch.device, *, wider: bool) -> torch.Tensor:
    # A tracer has no use for what is kept, and finds constants by itself.
    make = _make if torch.compiler.is_compiling() else _make_once
    return make(size, dtype, device, wider)


def _make(size: int, dtype: torch.dtype, device: torch.device, wider: bool) -> torch.Tensor:
    small = (size + 1) // 2
    rows, columns = (size, small) if wider else (small, size)
    weight = torch.tensor(BINOMIAL, dtype=torch.float64, device=device)
    near = torch.arange(rows, device=device)[:, None] * (1 if wider else 2)
    tap = near + torch.arange(-2, 3, device=device)
    if wider:
        weight = 2 * weight * (tap % 2 == 0)
        tap = tap.div(2, rounding_mode="floor")
    hits = tap.clamp(0, columns - 1)[..., None] == torch.arange(columns, device=device)
    return (hits * weight.expand(tap.shape)[..., None]).sum(dim=1).to(dtype)


@lru_cache(maxsize=128)
def _make_once(size: int, dtype: torch.dtype, device: torch.device, wider: bool) -> torch.Tensor:
    # A tensor born in inference mode could not serve a backward pass later, and this one is kept.
    with torch.inference_mode(False), torch.no_grad():
        return _make(size, dtype, device, wider)
