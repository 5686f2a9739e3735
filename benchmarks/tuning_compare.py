"""The last stage of `benchmarks.tuning`: the winner beside the preset, over training seeds that no
search has used."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.tuning_bench import Bench
from benchmarks.tuning_judging import judged
from trainer.commit import read_json
from trainer.leaving import NON_FINITE

JUDGEMENTS = ("test", "validation")
SEEDS_FROM = 100
"""First of the training seeds of the comparison, which no search has used."""
LIKE = {"longer": ("best", "preset"), "equal": ("plain", "best")}
"""What a kind is, and for as long as which other one it is trained."""
ALIKE = 0.02
"""Share by which training times may differ and still be the same."""

Found = dict[str, Any]
Train = Callable[[str, int, str], dict[str, Any]]
"""From a kind, steps and a run's name to what the training gave."""


def kinds(args: argparse.Namespace) -> tuple[str, ...]:
    """What is compared: the winner and the preset after as many steps, and the winner after as long
    a training (`longer`). Where all trainings share some settings, also the preset without those:
    `plain` for as many steps as the others, `equal` for as long as the winner."""
    return ("best", "preset", "longer", *(("plain", "equal") if args.words else ()))


def trainings(args: argparse.Namespace) -> int:
    """Trainings of one seed, in trainings of `--trial-seconds`: either the preset or the winner is
    trained again, and without the settings that all share the preset may take twice as long."""
    return 6 if args.words else 3


def trained(bench: Bench, name: str, *words: str) -> dict[str, Any]:
    """An ordinary training on one core: seconds, steps and PSNR, None where it went non-finite."""
    line = ("trainer.main", "train.threads=1", f"name={name}", "train.pictures=false",
            "telemetry.log=none", *words)  # fmt: skip
    code = bench.python(*line, may=(0, NON_FINITE.code))
    run = read_json(bench.out / "runs" / name / "run.json")
    final = {"seconds": None, "psnr": None} if code else run["final"]
    return {**final, "steps": None if code else run["step"]}


def compare(bench: Bench, found: Found) -> Found:
    """Preset and winner over training seeds that no search has used, as many at a time as a search
    trains. Each training and each judgement is kept by itself; judged at last, on all cores."""
    if not found["winner"]:
        return {"compare": []}
    seeds = range(SEEDS_FROM, SEEDS_FROM + bench.args.seeds)
    with ThreadPoolExecutor(bench.cores) as pool:
        rows = list(pool.map(lambda seed: trained_alike(bench, found, seed), seeds))
    cells = {"test": found["sets"]["test"], "validation": None}
    for row in rows:
        known: dict[str, Found] = {}
        for kind in kinds(bench.args):
            same = known.setdefault(row[kind]["run"], row[kind])
            run = bench.out / "runs" / row[kind]["run"]
            there = row[kind]["psnr"] is not None
            for name in JUDGEMENTS:
                if same is not row[kind]:  # it took as long already
                    row[kind][name] = same[name]
                    continue
                row[kind][name] = bench.once(
                    f"compare-{row['seed']}-{kind}-{name}",
                    lambda run=run, where=cells[name]: judged(bench, run, where, fit=True),
                ) if there else {}  # fmt: skip
    return {"compare": rows}


def trained_alike(bench: Bench, found: Found, seed: int) -> dict[str, Any]:
    """Trainings of all kinds with one seed."""
    base = ("preset=weizmann", f"data.manifest={found['sets']['data']}")
    config = str(bench.out / found["winner"] / "best.yaml")
    words = {"best": ("--config", config), "preset": (*base, *bench.args.words), "plain": base}

    def train(kind: str, steps: int, name: str) -> dict[str, Any]:
        made = trained(bench, name, *words[kind], f"seed={seed}", f"train.steps={steps}")
        return {"run": name, **{key: made[key] for key in ("steps", "seconds", "psnr")}}

    def make(kind: str) -> dict[str, Any]:
        if kind in LIKE:
            return as_long(train, row, kind=kind, name=f"{kind}-{seed}")
        made = train(kind, found["steps"], f"{kind}-{seed}")
        return no_shorter(train, row, made, kind=kind) if "best" in row else made

    row: dict[str, Any] = {"seed": seed}
    for kind in kinds(bench.args):
        row[kind] = bench.once(f"compare-{seed}-{kind}", lambda kind=kind: make(kind))
    return row


def no_shorter(
    train: Train, row: dict[str, Any], made: dict[str, Any], *, kind: str
) -> dict[str, Any]:
    """A training of a preset; one of more steps where the winner's took longer by more than
    `ALIKE`."""
    wanted = row["best"]["seconds"]
    if wanted and made["seconds"] and wanted > (1 + ALIKE) * made["seconds"]:
        more = round((1 + ALIKE) * wanted / made["seconds"] * made["steps"])
        return train(kind, more, f"{made['run']}-{more}")
    return made


def as_long(train: Train, row: dict[str, Any], *, kind: str, name: str) -> dict[str, Any]:
    """A training of `LIKE` for as long as its other, be that fewer steps or more; the one that is
    there where that took as long already."""
    of, like = LIKE[kind]
    wanted, made = row[like]["seconds"], row[of]
    if not wanted or not made["seconds"] or abs(wanted / made["seconds"] - 1) <= ALIKE:
        return {key: made[key] for key in ("run", "steps", "seconds", "psnr")}
    return train(of, max(1, round(wanted / made["seconds"] * made["steps"])), name)
