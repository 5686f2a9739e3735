"""From a search's command line to what is to be done, everything checked before anything starts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import UserError
from data_shards.manifest import MANIFEST, Manifest, read_manifest
from data_shards.stream import open_manifest
from trainer.config import Config, resolve
from tuning.engine import Way
from tuning.halving import rungs
from tuning.objectives import needs_vgg, require
from tuning.population import PARTS, changing
from tuning.records import Settings, threads_of
from tuning.space import Space, check, default_space, load_space, words_of
from tuning.vgg_file import require_weights, weights_of

OURS = (
    "name", "data.manifest", "train.steps", "train.minutes", "train.threads", "train.pictures",
    "seed", "telemetry.targets", "telemetry.labels", "train.until",
)  # fmt: skip
"""Settings that the search itself gives to every trial."""
OF_PB2 = ("train.changes",)
"""Those that searcher `pb2` gives, too."""
KEYS = ("latents.static_key", "latents.transient_key")


class Planned(NamedTuple):
    """A checked search."""

    settings: Settings
    space: Space
    way: Way
    budget: float
    """Accelerator-seconds."""


def plan(args: argparse.Namespace) -> Planned:
    """Check a command line.

    Raises:
        UserError: one line naming the option or setting.
    """
    hours = args.cpu_hours if args.gpu_hours is None else args.gpu_hours
    if not 0 < hours < math.inf:
        raise UserError(f"budget: {hours:g} hours is empty; give more than 0")
    gpus = _gpus(args)
    _require_numbers(args)
    width = gpus or args.cpus_per_trial
    if args.trial_cap and not args.trial_cap >= width * args.interval:
        raise UserError(
            f"--trial-cap: {args.trial_cap:g} accelerator-seconds are less than the "
            f"{width * args.interval:g} of one interval of a trial"
        )
    # argparse gives words that follow --objective to it.
    given = [*args.words, *(word for word in args.objective if "=" in word)]
    space = _space(args, given)
    opened = open_manifest(args.manifest)
    where = opened.where if "://" in args.manifest else str(Path(args.manifest).resolve())
    objectives = tuple(name for name in args.objective if "=" not in name)
    vgg = weights_of(objectives, args.vgg)
    require(objectives, opened.manifest, where=where, vgg=vgg)
    workers = _workers(args, gpus)
    words = (
        *given, f"data.manifest={where}", f"train.steps={args.steps}", f"seed={args.seed}",
        f"train.threads={threads_of(args.cpus_per_trial, workers)}", "train.pictures=false",
    )  # fmt: skip
    check(space, words)
    for config in _layouts(space, words):
        require_labels(config, opened.manifest, where=where)
        if "exchange" in objectives:
            require_exchange(config)
    if needs_vgg(objectives):
        require_weights(vgg)
    scheduler = args.scheduler or default_scheduler(args.searcher, objectives)
    if args.searcher == "pb2":
        _require_population(args, space, scheduler)
    settings = Settings(
        manifest=where, words=words, steps=args.steps, rungs=rungs(args.steps, scheduler),
        objectives=objectives, workers=workers, cpus=args.cpus_per_trial, gpus=gpus,
        interval=args.interval, seed=args.seed, vgg=vgg,
        space={"total": space.total, "ranges": [r._asdict() for r in space.ranges]},
        cap=args.trial_cap, population=args.population if args.searcher == "pb2" else 0,
        footage=footage_of(opened.manifest, where=where),
    )  # fmt: skip
    way = Way(
        args.searcher, scheduler, args.max_concurrent, args.trials, args.address,
        targets=require_targets(args.targets, args.out),
    )  # fmt: skip
    return Planned(settings, space, way, hours * 3600)


def _space(args: argparse.Namespace, given: Sequence[str]) -> Space:
    """What is searched; refuses what the search itself gives to trials, in it and among the words
    that were `given`: trials would not be what they are taken for.

    Raises:
        UserError: naming the option, the word, or the file and the setting.
    """
    ours = (*OURS, *(OF_PB2 if args.searcher == "pb2" else ()))
    for word in given:
        path = word.partition("=")[0]
        if path in ours:
            raise UserError(f"{word}: the search sets {path} itself")
    if not args.space:
        return default_space(rates=args.rates, total=args.total)
    if args.rates:
        raise UserError(
            f"--rates: {args.space} says what is searched; put the rates in there instead"
        )
    space = load_space(args.space, total=args.total)
    for item in space.ranges:
        if item.path in ours:
            raise UserError(f"{args.space}: {item.path}: the search sets it itself; leave it out")
    return space


def footage_of(manifest: Manifest, *, where: str) -> str:
    """Fingerprint of a set, and of the cells that are held out beside it where there are any: a
    study's scores are of both.

    Raises:
        UserError: the manifest of the cells is damaged.
    """
    cells = Path(where.removesuffix(MANIFEST)) / "held-out"
    beside = [read_manifest(cells).fingerprint] if (cells / MANIFEST).is_file() else []
    return " ".join([manifest.fingerprint, *beside])


def _require_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        UserError: naming the option.
    """
    for option, number in (
        ("--cpus-per-trial", args.cpus_per_trial), ("--interval", args.interval),
    ):  # fmt: skip
        if not 0 < number < math.inf:
            raise UserError(f"{option}: {number:g} is not above 0")
    for option, count, least in (
        ("--steps", args.steps, 3), ("--workers", args.workers, 0), ("--trials", args.trials, 0),
        ("--max-concurrent", args.max_concurrent, 0), ("--seed", args.seed, 0),
    ):  # fmt: skip
        if count < least:
            raise UserError(f"{option}: {count} is below {least}")


def _require_population(args: argparse.Namespace, space: Space, scheduler: str) -> None:
    """Refuse a population that cannot be.

    Raises:
        UserError: naming the option.
    """
    changing(space)
    if scheduler != "none":
        raise UserError(f"--scheduler: {scheduler}: pb2 ranks its members itself; leave it out")
    if args.population < 2:
        raise UserError(f"--population: {args.population}: at least 2 members are needed")
    if args.steps < PARTS:
        raise UserError(f"--steps: {args.steps}: pb2 needs at least {PARTS}")


def default_scheduler(searcher: str, objectives: tuple[str, ...]) -> str:
    """Halving where training PSNR, which rungs compare, is the objective and nothing else."""
    if objectives != ("psnr",) or searcher == "pb2":
        return "none"
    return "hyperband" if searcher == "bohb" else "asha"


def require_targets(folder: str, study: Path) -> str:
    """Folder of Prometheus targets, absolute; empty: none.

    Raises:
        UserError: the study's name cannot be a label.
    """
    if folder and set(study.resolve().name) & set(",="):
        raise UserError(f"--out: {study.name}: with --targets the name holds no comma and no =")
    return str(Path(folder).resolve()) if folder else ""


def require_labels(config: Config, manifest: Manifest, *, where: str) -> None:
    """Refuse a layout by labels that the footage does not have.

    Raises:
        UserError: naming the setting.
    """
    for name in ("static_key", "transient_key"):
        kind = getattr(config.latents, name)
        if not manifest.rows(kind):
            raise UserError(f"latents.{name}: {where} has no {kind} labels; use video or clip")


def require_exchange(config: Config) -> None:
    """Refuse a layout in which no held-out cell is a new pair of rows.

    Raises:
        UserError: naming the setting.
    """
    for name in ("static_key", "transient_key"):
        if getattr(config.latents, name) == "dataset":
            raise UserError(
                f"latents.{name}: dataset: all videos share one row, so that --objective exchange "
                "has nothing to exchange; use identity, action or video"
            )


def _layouts(space: Space, fixed: tuple[str, ...]) -> list[Config]:
    """Configs in which every choice of a row's key is there, beside the first value of all else."""
    first = {item.path: item.ends()[0] for item in space.ranges}
    keys = [item for item in space.ranges if item.path in KEYS]
    points = [first, *({**first, item.path: kind} for item in keys for kind in item.choices)]
    return [resolve([*fixed, *words_of(space, point, fixed=fixed)]) for point in points]


def _workers(args: argparse.Namespace, gpus: float) -> int:
    """Processes of a trial.

    Raises:
        UserError: more of them than accelerators that the trial is charged.
    """
    workers = args.workers or max(1, math.ceil(gpus))
    width = gpus or args.cpus_per_trial
    kind, option = ("GPU", "--gpus-per-trial") if gpus else ("core", "--cpus-per-trial")
    if workers > max(1, width):
        charged = f"{width:g} {kind}{'' if width == 1 else 's'}"
        raise UserError(
            f"--workers: {workers} processes, and a trial is charged {charged}; give {option} "
            f"{workers}"
        )
    return workers


def _gpus(args: argparse.Namespace) -> float:
    """GPUs of a trial.

    Raises:
        UserError: GPUs under a CPU budget, or more than this machine has.
    """
    if args.gpu_hours is None:
        if args.gpus_per_trial:
            raise UserError("--gpus-per-trial: the budget is of cores; give --gpu-hours")
        return 0.0
    wanted = 1.0 if args.gpus_per_trial is None else args.gpus_per_trial
    if not 0 < wanted < math.inf or (wanted > 1 and wanted != int(wanted)):
        raise UserError(f"--gpus-per-trial: {wanted:g} is neither a fraction nor a whole number")
    if not args.address:
        import torch

        there = torch.cuda.device_count()
        if wanted > there:
            raise UserError(f"--gpus-per-trial: {wanted:g}, and this machine has {there}")
    return wanted
