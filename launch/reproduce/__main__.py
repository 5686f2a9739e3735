"""Regenerate the paper's tables and figures, and set ours beside them.

    python -m launch.reproduce --data DIR --budget 30m|2h|full|45m --out DIR [--publish docs]

DIR holds data sets in their own layouts (docs/reproduce.md lists them); synthetic footage is always
there. The same command goes on where a killed one was; a stage with the same inputs is not run
again, nor is a training. Writes results.md and results.html.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from data_shards.errors import UserError
from launch.reproduce import planner, report, state, trainings
from launch.reproduce.context import Context, Stage, first_users
from launch.reproduce.footage import FootageSet, find_sets, manifest_of, prepared
from launch.reproduce.pacing import Pacing
from launch.reproduce.planner import Budget, Plan
from launch.reproduce.stages import STAGES
from trainer.evaluate import find_vgg


def plan_of(
    budget: Budget, stages: Mapping[str, Stage], sets: Sequence[FootageSet], same: Plan
) -> Plan:
    """The plan of a budget: what is left after all else goes to the trainings.

    Args:
        budget: how long and how large.
        stages: that are to run.
        sets: that are there.
        same: a plan whose shares, jobs, sizes and words hold.
    """
    plan = replace(
        same,
        seeds=budget.seeds, fit_steps=budget.fit_steps, counts=budget.counts, ranks=budget.ranks,
        randoms=budget.randoms, classify_steps=budget.classify_steps, grown=budget.grown,
        synthetic_seeds=int(budget.minutes is not None and any(f.root for f in sets)),
        words=(*budget.words, *same.words),
    )  # fmt: skip
    if budget.minutes is None:
        return plan
    makers = first_users(stages, sets, plan)
    needs = [stage.need(sets, plan, first=name in makers) for name, stage in stages.items()]
    return replace(plan, minutes=planner.divide(budget.minutes, needs))


def reproduce(
    context: Context,
    stages: Mapping[str, Stage],
    facts: report.Facts,
    *,
    publish: Path | None = None,
    budget: float | None = None,
    spent: float = 0.0,
) -> list[Path]:
    """Run the stages that are not done, and write the report after each; returns its files.

    Args:
        context: of all stages.
        stages: by name, in their order.
        facts: of the report.
        publish: folder that gets results.md too.
        budget: minutes; what does not fit is shortened or left out, and said so. None: no limit.
        spent: minutes of it that are gone already.
    """
    context.out.mkdir(parents=True, exist_ok=True)
    pacing = Pacing(context, stages, state.State(context.out), budget=budget, spent=spent)
    results, files = {}, []
    for name, stage in stages.items():
        results[name] = (stage.title, pacing.run(name))
        shown = {**results, "time": ("Time", pacing.table())}
        files = report.write(shown, facts, out=context.out)
    if publish:
        files = [*files, report.publish(shown, facts, out=context.out, docs=publish)]
    return files


def main(argv: list[str] | None = None) -> int:
    """Reproduce; 0 when the report is written, 2 on bad input or a training that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="", metavar="DIR", help="default: synthetic footage only")
    parser.add_argument("--budget", default="30m", help=f"{', '.join(planner.BUDGETS)} (30m)")
    parser.add_argument("--out", type=Path, default=Path("reproduction"), help="(%(default)s)")
    parser.add_argument("--publish", type=Path, metavar="DIR", help="write DIR/results.md too")
    parser.add_argument("--stages", nargs="+", default=[], metavar="NAME", help=", ".join(STAGES))
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME", help="only these sets")
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="trainings at a time (default: 1 with a GPU, else one for each core, at most 4)",
    )  # fmt: skip
    parser.add_argument("--vgg", metavar="FILE", help="VGG16 weights (or $NAVSYNTH_VGG16)")
    parser.add_argument("words", nargs="*", metavar="setting=value", help="of every training")
    options = parser.parse_intermixed_args(argv)
    words = sys.argv[1:] if argv is None else argv
    try:
        files = _main(options, f"python -m launch.reproduce {shlex.join(words)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in files:
        print(path)
    return 0


def _main(options: argparse.Namespace, command: str) -> list[Path]:
    start, budget = time.monotonic(), planner.budget_of(options.budget)
    stages = state.chosen_stages(options.stages, STAGES)
    sets = find_sets(options.data)
    unknown = set(options.sets) - {footage.name for footage in sets}
    if unknown:
        there = ", ".join(footage.name for footage in sets)
        raise UserError(f"--sets {min(unknown)}: there are {there}")
    sets = tuple(f for f in sets if not options.sets or f.name in options.sets)

    jobs = options.jobs or (1 if torch.cuda.is_available() else min(4, trainings.cores()))
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: at least 1 is needed")
    plan = Plan(None, 1, jobs=jobs, words=tuple(options.words))
    same = {"out": options.out, "frames": plan.frames, "size": plan.size}
    wholes = {f.name: manifest_of(prepared(f, name="all", **same)) for f in sets}
    shares = planner.shares_of({name: len(facts.videos) for name, facts in wholes.items()})
    plan = plan_of(budget, stages, sets, replace(plan, shares=shares))
    vgg, why = find_vgg(options.vgg)
    context = Context(options.out, sets, plan, vgg, why, trainings.start_process)
    facts = report.Facts(
        command=f"`{command}`",
        budget=f"{options.budget}: {length_of(plan, stages, sets)}",
        sets=", ".join(f"{name} ({len(whole.videos)} videos)" for name, whole in wholes.items()),
        machine=f"{len(os.sched_getaffinity(0))} cores, {_device()}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}",
        training=f"{_seeds(plan)}; {plan.frames} frames of {plan.size} x {plan.size}"
        + "".join(f"; `{word}`" for word in plan.words),
        code=f"SHA-256 {state.code_digest()[:12]}",
    )
    return reproduce(
        context, stages, facts, publish=options.publish, budget=budget.minutes,
        spent=(time.monotonic() - start) / 60,
    )  # fmt: skip


def length_of(plan: Plan, stages: Mapping[str, Stage], sets: Sequence[FootageSet]) -> str:
    """How many trainings there are, and how long ones, in words."""
    makers = first_users(stages, sets, plan)
    count = sum(
        stage.count(footage, plan, first=name in makers)
        for name, stage in stages.items() for footage in sets
    )  # fmt: skip
    if plan.minutes is None:
        return f"{count} trainings, as long as presets say, {plan.jobs} at a time"
    each = ", ".join(f"{f.name} {plan.minutes_on(f.name):.2f}" for f in sets)
    return f"{count} trainings, {plan.jobs} at a time; minutes of each: {each}"


def _seeds(plan: Plan) -> str:
    text = f"{plan.seeds} seeds" if plan.seeds > 1 else "one seed"
    return f"{text}, one on synthetic footage" if 0 < plan.synthetic_seeds < plan.seeds else text


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    sys.exit(main())
