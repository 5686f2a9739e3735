"""One step of training (Sec. 3.3): everything that moves, and what it takes to move it.

The state of a run is what `common`, `own` and the step's number give; draws, rates and the order of
the clips follow from the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from data_shards.batch import ClipBatch
from trainer import objective
from trainer.average import WeightAverage
from trainer.config import Config
from trainer.draws import draw
from trainer.latents import LatentDictionary, Latents
from trainer.networks import NavSynth
from trainer.optim import GROUPS, NetworkOptimiser
from trainer.parallel import Parallel, Ranks
from trainer.schedule import pace
from trainer.timing import Phases


class Measured(NamedTuple):
    """Sums of this rank; added over ranks they are those of the global batch."""

    terms: torch.Tensor
    """total, rec, static, triplet, mse."""
    norms: dict[str, torch.Tensor]
    """Gradient norms of the groups that moved (equal on all ranks)."""
    finite: bool


TERMS = ("total", "rec", "static", "triplet", "mse")


class Engine:
    """Networks, latents and optimisers of one run, on this rank."""

    def __init__(
        self, config: Config, *, ranks: Ranks, networks: NavSynth, dictionary: LatentDictionary
    ) -> None:
        self.config, self.ranks, self.dictionary = config, ranks, dictionary
        self.networks = networks.to(ranks.device, memory_format=torch.channels_last)  # type: ignore
        self.optimiser = NetworkOptimiser(self.networks, config=config.optim)
        self.average = WeightAverage(self.networks, decay=config.train.average)
        self.parallel = Parallel(self.networks, ranks)
        self.phases = Phases()
        self.pace = pace(config.schedule)
        self.frames = 0
        """Frames of the last global batch."""
        self.latents: Latents
        """Codes of the last batch, with their gradients."""

    def measure(self, batch: ClipBatch, *, step: int, moves: frozenset[str]) -> Measured:
        """Forward and backward of one batch; gradients are left where `update` finds them."""
        config, phases = self.config, self.phases
        total_clips = self.pace.clips
        choice = draw(
            batch.slot_B,
            seed=config.seed,
            step=step,
            batch=total_clips,
            frames=batch.frames_BTCHW.shape[1],
            drawn=self.pace.frames,
            radius=config.loss.radius,
            gap=config.loss.gap,
        )
        with phases("rows"):
            latents = self.dictionary.gather(
                batch.rows(config.latents.static_key), batch.rows(config.latents.transient_key)
            )
            real = self._real(batch.frames_BTCHW, choice.frames_BF)
        self.optimiser.zero_grad()
        with self.parallel.moving(moves) as networks:
            with phases("forward"):
                frames_BF = choice.frames_BF
                on_device = None if frames_BF is None else frames_BF.to(self.ranks.device)
                fake, motion = networks(latents.static_BS, latents.transient_BTM, on_device)
                codes = motion if config.loss.triplet_on == "motion" else latents.transient_BTM
                terms = objective.terms(
                    fake, real, codes, choice, batch.valid_B.to(self.ranks.device),
                    config=config.loss, batch=total_clips,
                )  # fmt: skip
            with phases("backward"):
                (terms.total * self.parallel.loss_scale).backward()
        self.latents, self._kept = latents, batch.valid_B
        self.frames = total_clips * fake.shape[1]
        summary = torch.stack([term.detach() for term in terms])
        norms = self.optimiser.norms(moves)
        finite = torch.isfinite(torch.cat([summary, *(n[None] for n in norms.values())])).all()
        if "latents" in moves:
            for rows in (latents.static_BS, latents.transient_BTM):
                finite = finite & (rows.grad is None or torch.isfinite(rows.grad).all())
        return Measured(summary, norms, bool(finite))

    def update(self, *, step: int, moves: frozenset[str], factor: float) -> None:
        """Move what this stage moves, at rates times `factor`, and project the latents."""
        with self.phases("optimiser"):
            self.optimiser.step(moves & frozenset(GROUPS), factor=factor)
            self.average.update(step)
        if "latents" in moves:
            with self.phases("rows"):
                self.dictionary.accumulate(
                    self.latents, scale=1 / self.parallel.loss_scale, keep_B=self._kept
                )
                self.dictionary.step(self.config.latents.rate * factor)
            with self.phases("projection"):
                self.dictionary.project_()

    def _real(self, frames_BTCHW: torch.Tensor, frames_BF: torch.Tensor | None) -> torch.Tensor:
        if frames_BF is not None:
            clips = torch.arange(frames_BF.shape[0])[:, None]
            frames_BTCHW = frames_BTCHW[clips, frames_BF]
        moved = frames_BTCHW.to(self.ranks.device, non_blocking=True)
        return objective.to_pixels(moved)

    def common(self) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors that are equal on all ranks, by file and name."""
        return {
            "networks": dict(self.networks.state_dict()),
            "optimiser": self.optimiser.state(),
            "average": self.average.state(),
        }

    def own(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's latent rows and their optimiser's state."""
        return self.dictionary.export()

    def restore(self, saved: Any) -> None:
        """Put back a checkpoint (`checkpoint.Saved`), written by any number of ranks."""
        self.networks.load_state_dict(saved.common("networks"))
        self.optimiser.load(saved.common("optimiser"))
        self.average.load(saved.common("average"))
        self.dictionary.restore(saved.read)
