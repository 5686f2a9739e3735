"""Regenerate the paper's tables and figures, and set ours beside them.

    python -m launch.reproduce --data DIR --budget 30m|2h|full|45m --out DIR [--publish docs]

DIR holds data sets in their own layouts (docs/reproduce.md lists them); synthetic footage is always
there. The same command goes on where a killed one was; a stage with the same inputs is not run
again, nor is a training. Writes results.md and results.html.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from data_shards.ending import ended
from data_shards.errors import UserError
from data_shards.manifest import Manifest
from launch.reproduce import digests, extras, planner, report, state, trainings
from launch.reproduce.context import Context, Stage, makers
from launch.reproduce.footage import FootageSet, find_sets, manifest_of, prepared
from launch.reproduce.lives import Lives, process_seconds
from launch.reproduce.pacing import Pacing
from launch.reproduce.planner import Budget, Plan
from launch.reproduce.stages import STAGES, sheets
from trainer.config import resolve
from trainer.distances import open_wanted
from trainer.evaluate import find_vgg


def plan_of(budget: Budget, sets: Sequence[FootageSet], same: Plan) -> Plan:
    """The sizes of a budget, without the minutes of its trainings.

    Args:
        budget: how large.
        sets: that are there.
        same: a plan whose shares, jobs, frames and words hold.
    """
    return replace(
        same,
        seeds=budget.seeds, fit_steps=budget.fit_steps, counts=budget.counts, ranks=budget.ranks,
        randoms=budget.randoms, classify_steps=budget.classify_steps, grown=budget.grown,
        synthetic_seeds=int(budget.minutes is not None and any(f.root for f in sets)),
        words=(*budget.words, *same.words),
    )  # fmt: skip


def timed(
    plan: Plan, minutes: float | None, stages: Mapping[str, Stage], sets: Sequence[FootageSet],
    lives: Lives,
) -> Plan:  # fmt: skip
    """The plan with what is left of a budget, after all else, given to the trainings.

    The first life of a run divides it, and the others keep to that: what a life spends before its
    first training is never the same, and trainings of another length would be others.

    Args:
        plan: sizes.
        minutes: of the budget; None: trainings are as long as their presets say.
        stages: that are to run.
        sets: that are there.
        lives: of the output folder; this one follows the run from now on.
    """
    made = makers(stages, sets, plan)
    needs = [stage.need(sets, plan, made[name]) for name, stage in stages.items()]
    names = [*stages, *(footage.name for footage in sets)]
    lives.follow(planner.run_of(minutes, plan, needs, names))
    if minutes is None:
        return plan
    each = lives.minutes()
    if each is None:
        each = planner.divide(minutes, needs, spent=lives.spent() / 60)
        lives.plan(each)
    return replace(plan, minutes=each)


def reproduce(
    context: Context,
    stages: Mapping[str, Stage],
    facts: report.Facts,
    *,
    publish: Path | None = None,
    budget: float | None = None,
    lives: Lives | None = None,
) -> list[Path]:
    """Run the stages that are not done, and write the report after each; returns its files.

    Args:
        context: of all stages.
        stages: by name, in their order.
        facts: of the report.
        publish: folder that gets results.md too.
        budget: minutes; what does not fit is shortened or left out, and said so. None: no limit.
        lives: of the output folder, this one begun; None: it begins here.
    """
    with Lives(context.out) if lives is None else nullcontext(lives) as every:
        context = replace(context, start=every.watched(context.start))
        pacing = Pacing(context, stages, state.State(context.out), every, budget=budget)
        results, files = {}, []
        for name, stage in stages.items():
            results[name] = (stage.title, pacing.run(name))
            shown = {**results, "time": ("Time", pacing.time())}
            facts = facts._replace(
                trainings=pacing.sources(), time=pacing.wall(), lengths=pacing.lengths(),
                code=digests.told(),
            )  # fmt: skip
            files = report.write(shown, facts, out=context.out)
        if publish:
            files = [*files, report.publish(shown, facts, out=context.out, docs=publish)]
    return files


@ended
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
    extras.add_options(parser)
    parser.add_argument("words", nargs="*", metavar="setting=value", help="of every training")
    options = parser.parse_intermixed_args(argv)
    words = sys.argv[1:] if argv is None else argv
    already = process_seconds() if argv is None else 0.0  # else this process began for others
    try:
        files = _main(options, f"python -m launch.reproduce {shlex.join(words)}", already)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in files:
        print(path)
    return 0


def _main(options: argparse.Namespace, command: str, already: float) -> list[Path]:
    budget = planner.budget_of(options.budget)
    stages = state.chosen_stages(options.stages, STAGES)
    wanted = open_wanted(options)
    sets = _chosen_sets(options)
    jobs = options.jobs or (1 if torch.cuda.is_available() else min(4, trainings.cores()))
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: at least 1 is needed")
    same = Plan(None, 1, jobs=jobs, words=tuple(options.words))
    with Lives(options.out, already=already) as lives:
        wholes = {
            f.name: manifest_of(
                prepared(f, out=options.out, name="all", frames=same.frames, size=same.size)
            )
            for f in sets
        }
        shares = planner.shares_of({name: len(facts.videos) for name, facts in wholes.items()})
        plan = plan_of(budget, sets, replace(same, shares=shares))
        plan = timed(plan, budget.minutes, stages, sets, lives)
        vgg, why = find_vgg(options.vgg)
        if vgg is None:
            print(f"warning: {why}", file=sys.stderr)
        context = Context(options.out, sets, plan, vgg, why, trainings.start_process, wanted=wanted)
        facts = _facts(options.budget, command, context, stages, wholes)
        return reproduce(
            context, stages, facts, publish=options.publish, budget=budget.minutes, lives=lives
        )


def _chosen_sets(options: argparse.Namespace) -> tuple[FootageSet, ...]:
    sets = find_sets(options.data)
    unknown = set(options.sets) - {footage.name for footage in sets}
    if unknown:
        there = ", ".join(footage.name for footage in sets)
        raise UserError(f"--sets {min(unknown)}: there are {there}")
    return tuple(f for f in sets if not options.sets or f.name in options.sets)


def _facts(
    budget: str, command: str, context: Context, stages: Mapping[str, Stage],
    wholes: Mapping[str, Manifest],
) -> report.Facts:  # fmt: skip
    plan, sets = context.plan, context.sets
    return report.Facts(
        command=f"`{command}`",
        budget=f"{budget}: {length_of(plan, stages, sets)}",
        sets=", ".join(f"{name} ({len(whole.videos)} videos)" for name, whole in wholes.items()),
        machine=f"{trainings.cores()} cores, {_device()}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}",
        training=f"{seeds_of(plan, stages, sets)}; {plan.frames} frames of {plan.size} x "
        f"{plan.size}"
        + "".join(f"; `{word}`" for word in plan.words)
        + "".join(f"; {text}" for text in losses_of(plan, sets)),
        left_out=left_out_of(plan, stages, sets),
        code=digests.told(),
    )


def length_of(plan: Plan, stages: Mapping[str, Stage], sets: Sequence[FootageSet]) -> str:
    """How many trainings there are, and how long ones, in words."""
    made = makers(stages, sets, plan)
    count = sum(
        stage.count(footage, plan, made[name])
        for name, stage in stages.items() for footage in sets
    )  # fmt: skip
    if plan.minutes is None:
        return f"{count} trainings, as long as presets say, {plan.jobs} at a time"
    each = ", ".join(f"{f.name} {plan.minutes_on(f.name):.2f}" for f in sets)
    return f"{count} trainings, {plan.jobs} at a time; minutes of each, as planned: {each}"


def losses_of(plan: Plan, sets: Sequence[FootageSet]) -> list[str]:
    """What l_rec is in trainings by the presets of the sets, in words, each once."""
    settings = [resolve([f"preset={f.preset}", "data.manifest=any", *plan.words]) for f in sets]
    return sorted({trainings.loss_told(config.loss.regression) for config in settings})


def left_out_of(plan: Plan, stages: Mapping[str, Stage], sets: Sequence[FootageSet]) -> str:
    """What these stages leave out of that which `full` has, in words; empty where that is
    nothing."""
    full, found = planner.BUDGETS["full"], []
    if plan.seeds < full.seeds:
        found.append(f"{full.seeds - plan.seeds} of {full.seeds} seeds")
    elif 0 < plan.synthetic_seeds < full.seeds and not all(footage.root for footage in sets):
        few = full.seeds - plan.synthetic_seeds
        found.append(f"{few} of {full.seeds} seeds on synthetic footage")
    if set(planner.HALF) <= set(plan.words):
        found.append("networks as wide as the presets say")
    if plan.randoms < full.randoms:
        found.append(f"{full.randoms - plan.randoms} of {full.randoms} random videos scored")
    ranks = [f"rho = {rank}, {scope}" for rank, scope in full.ranks
             if (rank, scope) not in plan.ranks]  # fmt: skip
    if "interpolation" in stages and ranks:
        found.append(f"interpolation with {' and '.join(ranks)}")
    if "unseen" in stages and not plan.counts:
        found.append("unseen footage against the number of training videos, with its plots")
    if "unseen" in stages and plan.fit_steps < full.fit_steps:
        few = full.fit_steps - plan.fit_steps
        found.append(f"{few:,} of {full.fit_steps:,} steps of fitting unseen videos")
    bare = [footage.name for footage in sets if not sheets.has_left(footage, plan)]
    if "sheets" in stages and bare:
        found.append(f"Fig. 4 left of {' and '.join(bare)}")
    return "; ".join(found)


def seeds_of(plan: Plan, stages: Mapping[str, Stage], sets: Sequence[FootageSet]) -> str:
    """How many seeds there are, and in which stages, in words."""
    one = replace(plan, seeds=1, synthetic_seeds=1)
    several = [
        name for name, stage in stages.items()
        if any(
            stage.trainings(f, plan) + len(stage.uses(f, plan))
            > stage.trainings(f, one) + len(stage.uses(f, one)) for f in sets
        )
    ]  # fmt: skip
    if not several:
        return "one seed (0)"
    text = f"{plan.seeds} seeds in {', '.join(several)}"
    if 0 < plan.synthetic_seeds < plan.seeds:
        text += " (one on synthetic footage)"
    return text if len(several) == len(stages) else f"{text}; one (0) in all other stages"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    sys.exit(main())
