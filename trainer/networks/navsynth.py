"""Both networks in one module: latents of a clip in, frames out (Sec. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from data_shards.errors import UserError
from trainer.networks.config import NetworksConfig
from trainer.networks.generator import GENERATORS
from trainer.networks.motion import MotionRNN


class Synthesis(NamedTuple):
    """What the networks make of a batch of latents."""

    images_BFCHW: torch.Tensor
    """Frames, about [-1, 1]."""
    motion_BTM: torch.Tensor
    """r^(t) of all T frames, drawn or not."""


class NavSynth(nn.Module):
    """R (`motion`, weights theta) and G (`generator`, weights gamma)."""

    def __init__(
        self, config: NetworksConfig, *, static: int, transient: int, size: int = 64
    ) -> None:
        super().__init__()
        if config.generator not in GENERATORS:
            raise UserError(
                f"networks.generator: {config.generator!r} is none of {', '.join(GENERATORS)}"
            )
        self.motion = MotionRNN(config, transient=transient)
        self.generator = GENERATORS[config.generator](config, latent=static + transient, size=size)

    def forward(
        self,
        static_BS: torch.Tensor,
        transient_BTM: torch.Tensor,
        frames_BF: torch.Tensor | None = None,
    ) -> Synthesis:
        """Run R over all T frames and G on those drawn.

        Args:
            static_BS: z^(s) of each clip.
            transient_BTM: z^(t) of all its frames.
            frames_BF: which frames to generate, int64; None: all T, in order.
        """
        motion_BTM = self.motion(transient_BTM)
        drawn_BFM = motion_BTM
        if frames_BF is not None:
            index_BFM = frames_BF[..., None].expand(*frames_BF.shape, motion_BTM.shape[2])
            drawn_BFM = motion_BTM.gather(1, index_BFM)
        clips, frames, _ = drawn_BFM.shape
        static_BFS = static_BS[:, None].expand(clips, frames, static_BS.shape[1])
        latent_BFD = torch.cat([static_BFS.to(drawn_BFM.dtype), drawn_BFM], dim=2)
        images_XCHW = self.generator(latent_BFD.flatten(0, 1))
        return Synthesis(images_XCHW.unflatten(0, (clips, frames)), motion_BTM)

    def theta(self) -> list[nn.Parameter]:
        """Weights of R."""
        return list(self.motion.parameters())

    def gamma(self) -> list[nn.Parameter]:
        """Weights of G."""
        return list(self.generator.parameters())


def parameter_counts(
    config: NetworksConfig, *, static: int, transient: int, size: int = 64
) -> dict[str, int]:
    """Parameters of theta and gamma, without allocating any."""
    with torch.device("meta"):
        networks = NavSynth(config, static=static, transient=transient, size=size)
    return {
        "theta": sum(weight.numel() for weight in networks.theta()),
        "gamma": sum(weight.numel() for weight in networks.gamma()),
    }
