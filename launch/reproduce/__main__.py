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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from data_shards.errors import UserError
from launch.reproduce import planner, report, state, trainings
from launch.reproduce.context import Context, Stage
from launch.reproduce.footage import find_sets
from launch.reproduce.pacing import Pacing
from launch.reproduce.planner import Budget, Plan
from launch.reproduce.stages import STAGES
from trainer.evaluate import find_vgg


def plan_of(
    budget: Budget, *, trainings_of: Callable[[Plan], int], rest_of: Callable[[Plan], float]
) -> Plan:
    """The plan of a budget: all its trainings are equally long."""
    same = {"fit_steps": budget.fit_steps, "counts": budget.counts, "ranks": budget.ranks}
    same |= {"randoms": budget.randoms, "classify_steps": budget.classify_steps}
    plan = Plan(None, budget.seeds, **same)
    if budget.minutes is None:
        return plan
    each = planner.divide(budget.minutes, trainings_of(plan), rest=rest_of(plan))
    return replace(plan, minutes=each)


def reproduce(
    context: Context,
    stages: dict[str, Stage],
    facts: report.Facts,
    *,
    publish: Path | None = None,
    budget: float | None = None,
) -> list[Path]:
    """Run the stages that are not done, and write the report after each; returns its files.

    Args:
        context: of all stages.
        stages: by name, in their order.
        facts: of the report.
        publish: folder that gets results.md too.
        budget: minutes; what does not fit is shortened or left out, and said so. None: no limit.
    """
    context.out.mkdir(parents=True, exist_ok=True)
    pacing = Pacing(context, stages, state.State(context.out), budget=budget)
    results, files = {}, []
    for name, stage in stages.items():
        print(f"stage {name}", file=sys.stderr, flush=True)
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
    budget = planner.budget_of(options.budget)
    stages = state.chosen_stages(options.stages, STAGES)
    sets = find_sets(options.data)
    unknown = set(options.sets) - {footage.name for footage in sets}
    if unknown:
        there = ", ".join(footage.name for footage in sets)
        raise UserError(f"--sets {min(unknown)}: there are {there}")
    sets = tuple(f for f in sets if not options.sets or f.name in options.sets)

    def needed(plan: Plan) -> int:
        return sum(stage.trainings(sets, plan) for stage in stages.values())

    def rest(plan: Plan) -> float:
        each = (planner.rest_minutes(plan, s.rest, sets=len(sets)) for s in stages.values())
        return sum(each)

    plan = plan_of(budget, trainings_of=needed, rest_of=rest)
    plan = replace(plan, words=tuple(options.words))
    vgg, why = find_vgg(options.vgg)
    context = Context(options.out, sets, plan, vgg, why, trainings.start_process)
    facts = report.Facts(
        command=f"`{command}`",
        budget=f"{options.budget}: {needed(plan)} trainings"
        + (f" of {plan.minutes:.2f} minutes each" if plan.minutes else ", as long as presets say"),
        sets=", ".join(footage.name for footage in sets),
        machine=f"{len(os.sched_getaffinity(0))} cores, {_device()}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}",
        training=f"seeds 0 to {plan.seeds - 1}; {plan.frames} frames of {plan.size} x {plan.size}",
    )
    return reproduce(context, stages, facts, publish=options.publish, budget=budget.minutes)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    sys.exit(main())
