"""Both networks in one module: latents of a clip in, frames out (Sec. 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from data_shards.onto import onto
from trainer.networks.conditional import ConditionalGenerator, RowLabels, columns_of
from trainer.networks.config import NetworksConfig
from trainer.networks.generator import Generator
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
        self,
        config: NetworksConfig,
        *,
        static: int,
        transient: int,
        size: int = 64,
        labels: RowLabels | None = None,
    ) -> None:
        """`labels`: of the rows, for a conditional generator; None: an ordinary one."""
        super().__init__()
        self.motion = MotionRNN(config, transient=transient)
        latent = static + transient
        self.mixed = False
        """Whether products of training are in bfloat16 (autocast); what is judged and shown is not.
        Entered here, since DeepSpeed turns off what is entered around its engine."""
        # Not seen from the generator's type: while ranks train it, a wrapper is in its place.
        self.classes = None if labels is None else labels.classes
        if labels is None:
            self.generator = Generator(config, latent=latent, size=size)
        else:
            self.generator = ConditionalGenerator(
                config, latent=latent, size=size, static=static, labels=labels
            )
            self.register_buffer("identity_N", labels.identity_N, persistent=False)
            self.register_buffer("action_N", labels.action_N, persistent=False)

    def told(
        self, static_BS: torch.Tensor, static_rows_B: torch.Tensor, transient_rows_B: torch.Tensor
    ) -> torch.Tensor:
        """Static codes with the labels of a pair of rows behind them, for a conditional generator.

        Rows that lie behind the dictionary's, as fitted ones do, have no labels.

        Returns:
            (B, S + classes), or `static_BS` itself where the generator is an ordinary one.
        """
        if self.classes is None:
            return static_BS
        columns = [static_BS]
        rows = (("identity_N", static_rows_B), ("action_N", transient_rows_B))
        for (name, row_B), classes in zip(rows, self.classes, strict=True):
            label_N = self.get_buffer(name)
            row_B = onto(row_B, label_N.device)
            label_B = label_N[row_B.clamp_max(len(label_N) - 1)]
            label_B = torch.where(row_B < len(label_N), label_B, -1)
            columns.append(columns_of(label_B, classes).to(static_BS))
        return torch.cat(columns, dim=1)

    def forward(
        self,
        static_BS: torch.Tensor,
        transient_BTM: torch.Tensor,
        frames_BF: torch.Tensor | None = None,
    ) -> Synthesis:
        """Run R over all T frames and G on those drawn.

        Args:
            static_BS: z^(s) of each clip, as `told` gives it, on any device.
            transient_BTM: z^(t) of all its frames.
            frames_BF: which frames to generate, int64; None: all T, in order.
        """
        if not (self.mixed and self.training):
            return self._synthesis(static_BS, transient_BTM, frames_BF)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._synthesis(static_BS, transient_BTM, frames_BF)

    def _synthesis(
        self,
        static_BS: torch.Tensor,
        transient_BTM: torch.Tensor,
        frames_BF: torch.Tensor | None,
    ) -> Synthesis:
        static_BS, transient_BTM = static_BS.to(self.device), transient_BTM.to(self.device)
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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def theta(self) -> list[nn.Parameter]:
        """Weights of R."""
        return list(self.motion.parameters())

    def gamma(self) -> list[nn.Parameter]:
        """Weights of G."""
        return list(self.generator.parameters())


def parameter_counts(
    config: NetworksConfig,
    *,
    static: int,
    transient: int,
    size: int = 64,
    labels: RowLabels | None = None,
) -> dict[str, int]:
    """Parameters of theta and gamma, without allocating any."""
    with torch.device("meta"):
        networks = NavSynth(config, static=static, transient=transient, size=size, labels=labels)
    return {
        "theta": sum(weight.numel() for weight in networks.theta()),
        "gamma": sum(weight.numel() for weight in networks.gamma()),
    }
