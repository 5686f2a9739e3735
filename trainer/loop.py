"""The training loop, flat: read, measure, agree, move, write down.

All ranks take every decision together: once per step, before anything moves, one small collective
tells each of them whether some rank met a non-finite value, was asked to stop or to save, and how
much time has gone by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_shards.batch import ClipBatch
from data_shards.errors import UserError
from data_shards.manifest import clip_key
from data_shards.memory import decoded_bytes
from data_shards.stream import OpenManifest, Stream
from trainer import schedule
from trainer.checkpoint import Checkpointer
from trainer.config import Config
from trainer.engine import TERMS, Engine, Measured
from trainer.finite import Evidence, stop
from trainer.leaving import Asked
from trainer.observe import Observer
from trainer.saves import Saves
from trainer.segment import OneMachine
from trainer.telemetry import Telemetry
from trainer.waiting import await_batch
from trainer.watchdog import Watchdog


class Agreed(NamedTuple):
    """What all ranks know before a step moves anything."""

    broken: bool
    bad: bool
    asked: bool
    due: bool
    writing: bool
    seconds: float


class Progress(NamedTuple):
    """Where a training is: steps taken, seconds of training over all its lives."""

    step: int
    seconds: float
    rollbacks: int = 0
    """How often it went back with lower rates (see `rollback`)."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """Where a checkpoint is, from its counters."""
        return cls(int(state["step"]), float(state["seconds"]), int(state.get("rollbacks", 0)))


class Parts(NamedTuple):
    """What a training is made of, on this rank."""

    config: Config
    opened: OpenManifest
    engine: Engine
    checkpoints: Checkpointer
    telemetry: Telemetry
    watchdog: Watchdog
    asked: Asked
    folder: Path
    observer: Observer
    saves: Saves


def length(config: Config, clips: int) -> int | None:
    """Steps of the whole run; None where minutes decide."""
    if config.train.minutes is not None:
        return None
    return config.train.steps or schedule.total_steps(
        clips=clips, pace=schedule.pace(config.schedule)
    )


def train(
    parts: Parts, begin: Progress, *, on_sample: Callable[[Progress], None]
) -> tuple[Progress, bool]:
    """Train from `begin` to the end; returns where it ended and whether a signal ended it early.

    Raises:
        NonFinite: before anything moved, on every rank.
        UserError: damaged footage, a full disk.
    """
    config, engine = parts.config, parts.engine
    steps = length(config, parts.opened.manifest.clips)
    step, seconds, sampled = begin.step, begin.seconds, begin.seconds
    visit = schedule.visit(step, pace=engine.pace)
    with open_stream(parts, first=visit) as stream:
        batch, problem, loaded = None, "", -1
        clock = time.perf_counter() - seconds
        while not finished(config, steps, step, seconds):
            visit = schedule.visit(step, pace=engine.pace)
            parts.watchdog.beat(step, "data")
            with engine.phases("data"):
                if loaded != visit or batch is None:
                    (batch, problem), loaded = read(parts, stream, visit), visit
            stage = schedule.stage(step, pace=engine.pace)
            factor = rate(config, steps, begin._replace(step=step, seconds=seconds))
            parts.watchdog.beat(step, stage.name)
            measured = engine.measure(batch, step=step, moves=stage.moves)
            agreed = agree(
                parts, measured, step=step + 1, seconds=time.perf_counter() - clock,
                broken=bool(problem),
            )  # fmt: skip
            if agreed.broken:
                raise UserError(first_of(engine.ranks.comm.gather_json(problem)))
            if agreed.bad:
                parts.observer.nonfinite(step)
                stop(step, evidence(parts, batch, measured), comm=engine.ranks.comm,
                     folder=parts.folder, state={"seed": config.seed})  # fmt: skip
            done = share(config, steps, step + 1, agreed.seconds)
            over = finished(config, steps, step + 1, agreed.seconds)
            logged = (step + 1) % config.train.log_steps == 0 or over
            with parts.observer.update(stage.moves, logged=logged):
                engine.update(step=step, moves=stage.moves, factor=factor)
            step, seconds = step + 1, agreed.seconds
            here = begin._replace(step=step, seconds=seconds)
            parts.observer.record(
                stream, measured, step=step, seconds=seconds, factor=factor, done=done,
                logged=logged,
            )  # fmt: skip
            with engine.phases("checkpoint"):
                tend_saves(parts, ready=not agreed.writing, first=step == begin.step + 1)
                if agreed.due and not agreed.asked and not finished(config, steps, step, seconds):
                    save(parts, here, background=config.checkpoint.behind)
            if agreed.asked:
                save(parts, here, last=True)
                return here, True
            every = 60 * config.train.sample_minutes
            if every and seconds - sampled >= every:
                sampled = seconds
                with engine.phases("evaluation"), parts.watchdog.patience(600):
                    on_sample(here)
    return begin._replace(step=step, seconds=seconds), False


def open_stream(parts: Parts, *, first: int) -> Stream:
    """This rank's stream of global batches, from number `first` on.

    Raises:
        UserError: on every rank, where one cannot have its footage.
    """
    comm, device = parts.engine.ranks.comm, parts.engine.ranks.device
    with parts.watchdog.patience(3600):  # a set that fits is decoded here
        stream, problem = None, ""
        try:
            stream = Stream(
                parts.opened, parts.config.data, seed=parts.config.seed,
                batch=parts.engine.pace.clips, rank=comm.rank, world=comm.world,
                start_step=first, progress=comm.rank == 0, together=OneMachine(comm),
            )  # fmt: skip
        except UserError as error:  # of a machine's own copy, which others need not share
            problem = str(error)
        problem = first_of(comm.gather_json(problem))
        if stream is None or problem:
            raise UserError(problem)
        parts.engine.dictionary.constrain()  # low rank may read the whole dictionary once
    if device.type == "cuda" and fits_on(device, decoded_bytes(parts.opened)):
        stream.to_(device)
    return stream


def fits_on(device: torch.device, size: int) -> bool:
    """Whether so many bytes take at most a quarter of what is free on a GPU."""
    return size <= torch.cuda.mem_get_info(device)[0] // 4


def finished(config: Config, steps: int | None, step: int, seconds: float) -> bool:
    """Whether a run has had its steps or its minutes, or is to end here."""
    return share(config, steps, step, seconds) >= 1 or step >= (config.train.until or math.inf)


def share(config: Config, steps: int | None, step: int, seconds: float) -> float:
    """Share of the run that is done; more than 1 where a step took it past the end."""
    if steps is not None:
        return step / steps
    assert config.train.minutes is not None
    return seconds / (60 * config.train.minutes)


def rate(config: Config, steps: int | None, at: Progress) -> float:
    """What rates are multiplied by now."""
    done = share(config, steps, at.step, at.seconds)
    factor = schedule.rate_factor(done, curve=config.optim.curve, warmup=config.optim.warmup)
    return factor * config.train.rollback_rate**at.rollbacks


def read(parts: Parts, stream: Stream, visit: int) -> tuple[ClipBatch, str]:
    """The batch of a visit; or an empty one and why, so that this rank takes part in the step in
    which all ranks learn of it. Rows of the visit after it are announced."""
    await_batch(stream, parts.engine, parts.watchdog)
    try:
        batch = next(stream)
        fetch_ahead(parts.engine, stream, visit + 1)
        return batch, ""
    except UserError as error:
        of = stream.opened.manifest
        return ClipBatch.empty(of.frames, of.height, of.width), str(error)


def fetch_ahead(engine: Engine, stream: Stream, visit: int) -> None:
    """Begin to read the rows of a coming visit, where that helps, while this one computes."""
    layout, dictionary = engine.config.latents, engine.dictionary
    if dictionary.fetches:
        keys = layout.static_key, layout.transient_key
        dictionary.fetch_ahead(*(stream.rows(visit, key) for key in keys))


def first_of(problems: list[str]) -> str:
    """What the first rank with a problem says; empty where none has one."""
    return next((problem for problem in problems if problem), "")


def agree(parts: Parts, measured: Measured, *, step: int, seconds: float, broken: bool) -> Agreed:
    """Exchange flags and rank 0's clock: one collective of six numbers."""
    comm = parts.engine.ranks.comm
    flags = torch.tensor(
        [
            broken,
            not measured.finite,
            parts.asked.signal is not None,
            parts.checkpoints.due(step),
            parts.checkpoints.busy,
            seconds if comm.rank == 0 else 0.0,
        ],
        dtype=torch.float64,
    )
    with parts.engine.phases("communication"):
        seen = comm.max_(flags).tolist()
    return Agreed(*(bool(flag) for flag in seen[:5]), seconds=seen[5])


def save(
    parts: Parts, at: Progress, *, background: bool = False, score: float | None = None,
    last: bool = False,
) -> None:  # fmt: skip
    """Write a checkpoint of everything that `restore` needs.

    Raises:
        UserError: a disk that is full or fails, unless `checkpoint.on_full=continue` and this is
            not the `last` of a life, which nothing after it makes up for.
    """
    with parts.watchdog.patience(3600):
        parts.saves.finish()  # before the next snapshot of the rows is taken
        parts.saves.save(
            at.step,
            common=parts.engine.common(),
            own=parts.engine.own(),
            state=state_of(parts, at),
            score=score,
            background=background,
        )
        if last:
            parts.saves.require(at.step)


def tend_saves(parts: Parts, *, ready: bool, first: bool) -> None:
    """Commit a save that all ranks have written. After the first step of a life, when there is
    everything that a save copies: get the memory for that, where saves are made beside training."""
    parts.saves.poll(ready=ready)
    if first and parts.config.checkpoint.beside:
        common = parts.engine.common()
        if parts.engine.ranks.comm.rank == 0:
            parts.checkpoints.copies.reserve(common)


def state_of(parts: Parts, at: Progress) -> dict[str, Any]:
    """Counters of a checkpoint: all that is not a tensor."""
    return {
        **at._asdict(),
        "fingerprint": parts.opened.manifest.fingerprint,
        **parts.engine.identity(),
    }


def evidence(parts: Parts, batch: ClipBatch, measured: Measured) -> Evidence:
    """What replays a step that is not finite."""
    networks, latents = parts.engine.networks, parts.engine.latents
    manifest, table = parts.opened.manifest, parts.opened.table
    rows = {"static": latents.static_BS, "transient": latents.transient_BTM}
    gradients = {f"{name}.grad": row.grad for name, row in rows.items() if row.grad is not None}
    return Evidence(
        terms=dict(zip(TERMS, measured.terms, strict=True)),
        gradients={n: p.grad for n, p in networks.named_parameters() if p.grad is not None},
        rows={**{name: row.detach() for name, row in rows.items()}, **gradients},
        batch={"frames": batch.frames_BTCHW, "clip": batch.clip_B, "slot": batch.slot_B},
        clips=[clip_key(manifest, table[int(clip)]) for clip in batch.clip_B],
        weights=dict(networks.state_dict()),
    )
