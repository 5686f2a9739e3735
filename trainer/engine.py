"""One step of training (Sec. 3.3): everything that moves, and what it takes to move it.

The state of a run is what `common`, `own` and the step's number give; draws, rates and the order of
the clips follow from the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from data_shards.batch import ClipBatch
from data_shards.errors import UserError
from data_shards.onto import onto
from data_shards.plan import ORDER
from trainer import compiled, objective
from trainer.average import WeightAverage
from trainer.changes import Changing
from trainer.config import Config
from trainer.draws import Draw, draw
from trainer.latents import LatentDictionary, Latents
from trainer.leaving import LOST_RANK, ending_of
from trainer.losses import Triplets
from trainer.networks import NavSynth
from trainer.optim import GROUPS, NetworkOptimiser
from trainer.parallel import Parallel, Ranks, micro_batches
from trainer.reshard import Restored
from trainer.schedule import pace
from trainer.shared import Shared, shared_memory
from trainer.timing import Phases
from trainer.zero import Zero


class Measured(NamedTuple):
    """Sums of this rank; added over ranks they are those of the global batch."""

    terms: torch.Tensor
    """total, rec, static, triplet, mse."""
    norms: dict[str, torch.Tensor]
    """Gradient norms of the groups that moved (equal on all ranks)."""
    finite: bool


class _Part(NamedTuple):
    """Clips of a rank with everything that belongs to them."""

    latents: Latents
    batch: ClipBatch
    draw: Draw

    def cut(self, part: slice) -> _Part:
        """Some of the clips; gradients reach the codes of all."""
        batch, draw, latents = self.batch, self.draw, self.latents
        if part == slice(0, len(batch.clip_B)):
            return self
        return _Part(
            latents._replace(
                static_BS=latents.static_BS[part], transient_BTM=latents.transient_BTM[part]
            ),
            ClipBatch(*(column[part] for column in batch)),
            Draw(
                None if draw.frames_BF is None else draw.frames_BF[part],
                draw.static_B[part],
                Triplets(*(index[part] for index in draw.triplets)),
            ),
        )


IDENTITY = {
    "seed": "seed",
    "clips": "schedule.clips",
    "order": "order of clips",
    "visit_steps": "schedule (steps on each batch)",
    "shuffle_shards": "data.shuffle_shards",
    "shuffle_block": "data.shuffle_block",
    "static_key": "latents.static_key",
    "transient_key": "latents.transient_key",
}
"""What a step's number and a row mean depends on these; the settings that give them."""
TERMS = ("total", "rec", "static", "triplet", "mse")


class Engine:
    """Networks, latents and optimisers of one run, on this rank."""

    def __init__(
        self, config: Config, *, ranks: Ranks, networks: NavSynth, dictionary: LatentDictionary
    ) -> None:
        self.config, self.ranks, self.dictionary = config, ranks, dictionary
        self.networks = networks.to(ranks.device)
        self.networks.mixed = config.train.precision == "bf16"
        if ranks.zero:  # DeepSpeed flattens weights, for which they must lie in their own order
            self.networks.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        else:
            self.networks.generator.arrange_()
        self._objective = compiled.compile_(
            self.networks.generator, config.networks, device=ranks.device, world=ranks.comm.world
        )
        self.parallel: Parallel | Zero | Shared
        self.optimiser: NetworkOptimiser | Zero | Shared
        memory = shared_memory(self.networks, ranks, way=config.train.gradients)
        if ranks.zero and config.train.rollback:
            raise UserError(
                "train.rollback: DeepSpeed keeps the gradients of a step that is not taken; set 0, "
                "or launch with accelerate_config.yaml"
            )
        if ranks.zero:
            self.parallel = self.optimiser = Zero(self.networks, ranks, config=config.optim)
        elif memory is not None:
            self.parallel = self.optimiser = Shared(
                self.networks, ranks, config=config.optim, memory=memory
            )
        else:
            self.optimiser = NetworkOptimiser(self.networks, config=config.optim)
            self.parallel = Parallel(self.networks, ranks)
        self.average = WeightAverage(
            self.networks, decay=config.train.average,
            memory=self.parallel.average if isinstance(self.parallel, Shared) else None,
        )  # fmt: skip
        self.parallel.settle()
        self._changing = Changing(config)
        self.phases = Phases()
        self.pace = pace(config.schedule)
        self.frames = 0
        """Frames of the last global batch."""
        self.latents: Latents
        """Codes of the last batch, with their gradients."""
        self.valid_B: torch.Tensor
        """Clips of the last batch that were not damaged."""

    @property
    def gradients(self) -> str:
        """How ranks add up gradients: memory | send | zero | alone."""
        if self.ranks.comm.world == 1:
            return "alone"
        return {Shared: "memory", Zero: "zero"}.get(type(self.parallel), "send")

    def begin_at_colour_(self, colour_C: torch.Tensor) -> None:
        """Before the first step: the generator's frames begin at one colour, in [-1, 1]."""
        self.networks.generator.begin_at_colour_(colour_C)
        if isinstance(self.parallel, Zero):
            self.parallel.adopt()

    def measure(self, batch: ClipBatch, *, step: int, moves: frozenset[str]) -> Measured:
        """Forward and backward of one batch; gradients are left where `update` finds them."""
        self.config = self._changing.at(step)
        self.optimiser.config = self.config.optim
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
        self.optimiser.zero_grad()
        compiled.begin_step(config.networks.compile)
        parts = micro_batches(len(batch.clip_B), config.train.accumulate)
        summary = torch.zeros(len(TERMS), device=self.ranks.device)
        with self.parallel.moving(moves) as networks:
            for number, part in enumerate(parts, 1):
                with self.parallel.micro_batch(last=number == len(parts)):
                    with phases("forward"):
                        terms = self._terms(networks, _Part(latents, batch, choice).cut(part))
                    with phases("backward"):
                        self.parallel.backward(terms.total)
                summary += torch.stack([term.detach() for term in terms])
        self.latents, self.valid_B = latents, batch.valid_B
        frames = batch.frames_BTCHW.shape[1]
        self.frames = total_clips * (min(self.pace.frames, frames) or frames)
        with phases("communication"):
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
            self.parallel.settle()
        if "latents" in moves:
            with self.phases("rows"):
                # Where damage ends the run, no damaged clip comes as far as this.
                some_lost = self.config.data.on_damage == "quarantine"
                self.dictionary.accumulate(
                    self.latents, scale=1 / self.parallel.loss_scale,
                    keep_B=self.valid_B if some_lost else None,
                )  # fmt: skip
                self.dictionary.step(self.config.latents.rate * factor)
            with self.phases("projection"):
                self.dictionary.project_()

    def _terms(self, networks: NavSynth, part: _Part) -> objective.LossTerms:
        """The loss of some of this rank's clips."""
        config, batch, draw = self.config, part.batch, part.draw
        frames_BF = None if draw.frames_BF is None else self._to_device(draw.frames_BF)
        there = batch.frames_BTCHW.device.type == self.ranks.device.type
        real = self._real(batch.frames_BTCHW, frames_BF if there else draw.frames_BF)
        layout = config.latents
        rows = (batch.rows(key) for key in (layout.static_key, layout.transient_key))
        static_BS = self.networks.told(part.latents.static_BS, *rows)
        fake, motion = networks(static_BS, part.latents.transient_BTM, frames_BF)
        draw = draw._replace(
            static_B=self._to_device(draw.static_B),
            triplets=Triplets(*map(self._to_device, draw.triplets)),
        )
        codes = motion if config.loss.triplet_on == "motion" else part.latents.transient_BTM
        return self._objective(
            fake.float(), real, codes.float(), draw, self._to_device(batch.valid_B),
            config=config.loss, batch=self.pace.clips,
        )  # fmt: skip

    def _real(self, frames_BTCHW: torch.Tensor, frames_BF: torch.Tensor | None) -> torch.Tensor:
        """Only the drawn frames travel, as bytes; they become numbers on the device. `frames_BF` is
        where the frames are."""
        if frames_BF is not None:
            clips = torch.arange(frames_BF.shape[0], device=frames_BF.device)[:, None]
            frames_BTCHW = frames_BTCHW[clips, frames_BF]
        return objective.to_pixels(self._to_device(frames_BTCHW))

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return onto(tensor, self.ranks.device)

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

    def identity(self) -> dict[str, int | str]:
        """What gives a step's number its meaning (the order of clips, the draws, the visits), and a
        row: keys of a clip and of a video that has no other are the same."""
        return {
            "seed": self.config.seed,
            "clips": self.pace.clips,
            "order": ORDER,
            "visit_steps": self.pace.visit_steps,
            "shuffle_shards": self.config.data.shuffle_shards,
            "shuffle_block": self.config.data.shuffle_block,
            "static_key": self.config.latents.static_key,
            "transient_key": self.config.latents.transient_key,
        }

    def restore(self, saved: Any) -> dict[str, Restored]:
        """Put back a checkpoint (`checkpoint.Saved`), written by any number of ranks.

        Returns:
            What became of the rows of each table.

        Raises:
            UserError: it was made with settings under which this run cannot go on.
        """
        for name, value in self.identity().items():
            # Checkpoints without it were trained in the first order.
            was = saved.state.get(name, 1 if name == "order" else value)
            if was != value:
                raise UserError(
                    f"{IDENTITY[name]}: the run was trained with {was} and cannot go on with "
                    f"{value}; choose another name=..."
                )
        try:
            self._load(saved)
        except (RuntimeError, KeyError) as error:
            if ending_of(error) is LOST_RANK or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                "networks, train.average: not those of the run's checkpoint; choose another "
                f"name=... ({reason})"
            ) from error
        self.parallel.settle()
        return self.dictionary.restore(saved.read)

    def _load(self, saved: Any) -> None:
        self.networks.load_state_dict(saved.common("networks"))
        self.optimiser.load(saved.common("optimiser"))
        self.average.load(saved.common("average"))
