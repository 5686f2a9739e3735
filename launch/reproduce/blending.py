"""Frames between two learned ones (Sec. 4.3.3, Fig. 7): three ways to blend, and plain blending.

    sequence   z between its neighbours; R runs over the lengthened sequence, as the paper does it
    step       z between its neighbours; R takes one step from its state at the frame before
    codes      R's outputs are blended

Shapes: `B` clips, `T` learned frames, `G` = T - 1 gaps with one frame in each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from trainer.networks import NavSynth


def between(values_BTX: torch.Tensor) -> torch.Tensor:
    """The middle of every two neighbours along dimension 1."""
    return (values_BTX[:, 1:] + values_BTX[:, :-1]) / 2


def by_sequence(networks: NavSynth, transient_BTM: torch.Tensor) -> torch.Tensor:
    """Motion codes (B, G, M) of the frames in the gaps, out of one long sequence."""
    clips, frames, width = transient_BTM.shape
    long = transient_BTM.new_empty(clips, 2 * frames - 1, width)
    long[:, 0::2], long[:, 1::2] = transient_BTM, between(transient_BTM)
    return networks.motion(long)[:, 1::2]


def by_step(networks: NavSynth, transient_BTM: torch.Tensor) -> torch.Tensor:
    """Motion codes (B, G, M): one step of R from its state at the frame before the gap."""
    clips, frames, width = transient_BTM.shape
    hidden_BTH, _ = networks.motion.gru(transient_BTM)
    state = hidden_BTH[:, :-1].reshape(1, clips * (frames - 1), -1).contiguous()
    middle = between(transient_BTM).reshape(clips * (frames - 1), 1, width)
    after, _ = networks.motion.gru(middle, state)
    return networks.motion.head(after[:, 0]).unflatten(0, (clips, frames - 1))


def by_codes(networks: NavSynth, transient_BTM: torch.Tensor) -> torch.Tensor:
    """Motion codes (B, G, M): the middle of R's outputs."""
    return between(networks.motion(transient_BTM))


WAYS: dict[str, Callable[[NavSynth, torch.Tensor], torch.Tensor]] = {
    "sequence": by_sequence,
    "step": by_step,
    "codes": by_codes,
}


@torch.inference_mode()
def generated(
    networks: NavSynth, static_BS: torch.Tensor, transient_BTM: torch.Tensor, way: str
) -> torch.Tensor:
    """Generator output (B, G, C, H, W) of the frames in the gaps."""
    static_BS, transient_BTM = static_BS.to(networks.device), transient_BTM.to(networks.device)
    codes_BGM = WAYS[way](networks, transient_BTM)
    clips, gaps, _ = codes_BGM.shape
    static_BGS = static_BS[:, None].expand(-1, gaps, -1)
    latent = torch.cat([static_BGS, codes_BGM], dim=2).flatten(0, 1)
    return networks.generator(latent).unflatten(0, (clips, gaps))


def blended(frames_BTHWC: np.ndarray) -> np.ndarray:
    """Plain blending: the mean of the two neighbouring frames, uint8 (B, G, H, W, C)."""
    pairs = frames_BTHWC.astype(np.float64)
    return ((pairs[:, 1:] + pairs[:, :-1]) / 2).round().astype(np.uint8)
