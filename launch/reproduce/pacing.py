"""Stages under a budget of wall time: what each is given, what it took, what was left out.

The plan gives every training the same minutes. Before a stage begins, what is left of the budget is
compared with what this stage and those after it take at the pace seen so far. Where it is less or
more, trainings of the stages that stand for themselves are shortened or lengthened, alike within a
stage; those that are compared with another stage's are as planned or left out. The report says
which.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from launch.reproduce import planner, state
from launch.reproduce.context import Context, Stage, StageResult, Table, first_users
from launch.reproduce.planner import Need


class Pacing:
    """Runs stages in their order. Minutes given are kept, so that a killed stage goes on with the
    same trainings."""

    def __init__(
        self,
        context: Context,
        stages: Mapping[str, Stage],
        kept: state.State,
        *,
        budget: float | None,
        spent: float = 0.0,
    ) -> None:
        """`spent`: minutes of the budget that are gone already."""
        self.context, self.stages, self.kept, self.budget = context, stages, kept, budget
        self.makers = first_users(stages, context.sets, context.plan)
        self.left = (budget or 0.0) - spent
        """Minutes."""
        self.done: list[tuple[Need, float, float]] = []
        self.rows: list[tuple] = []

    def need(self, name: str) -> Need:
        """What a stage takes, by plan."""
        first = name in self.makers
        return self.stages[name].need(self.context.sets, self.context.plan, first=first)

    def trainings(self, name: str) -> int:
        """How many trainings a stage asks for."""
        sets, plan = self.context.sets, self.context.plan
        first = name in self.makers
        return sum(self.stages[name].count(footage, plan, first=first) for footage in sets)

    def run(self, name: str) -> StageResult:
        """A stage's result; one that says why where it was left out."""
        need, planned = self.need(name), self.context.plan.minutes
        each = self.given(name)
        if planned is not None and each is None:
            text = f"left out: {max(0.0, self.left):.1f} minutes of the budget were left"
            print(f"stage {name}: {text}", file=sys.stderr, flush=True)
            self.rows.append((name, self.trainings(name), planned, None, None, None))
            return StageResult(notes=(f"{text}; --stages {name} runs it with a budget to itself",))
        print(f"stage {name}: {self.outlook(name, need, each)}", file=sys.stderr, flush=True)
        context = replace(self.context, plan=replace(self.context.plan, minutes=each))
        result = state.run_stage(context, self.kept, name, self.stages[name])
        took = self.kept.seconds_of(name) / 60
        self.left -= took
        self.done.append((need, each or 0.0, took))
        before = self.kept.before(name) / 60 or None
        self.rows.append((name, self.trainings(name), planned, each, took, before))
        return result

    def outlook(self, name: str, need: Need, each: float | None) -> str:
        """What a stage is about to do and how long that takes, in words."""
        count = self.trainings(name)
        text = f"{count} trainings, {self.context.plan.jobs} at a time" if count else "no training"
        if each is None:
            return text
        minutes = planner.pace_of(self.done) * need.around + need.units * each
        left = f"; {self.left:.0f} minutes of the budget are left" if self.budget else ""
        return f"{text}, about {minutes:.1f} minutes{left}"

    def given(self, name: str) -> float | None:
        """Minutes of each of a stage's trainings, kept from its first start on; None: none fits."""
        planned = self.context.plan.minutes
        if planned is None or self.budget is None:
            return planned
        before = self.kept.minutes_of(name, planned=planned)
        if before is not None:
            return before
        names = list(self.stages)
        needs = [self.need(later) for later in names[names.index(name) :]]
        pace = planner.pace_of(self.done)
        minutes = planner.given(self.left, needs, planned=planned, pace=pace)
        if minutes is not None:
            self.kept.give(name, planned=planned, minutes=minutes)
        return minutes

    def table(self) -> StageResult:
        """What was planned, given and taken, as a table of the report."""
        total = sum(row[4] or 0.0 for row in self.rows)
        earlier = sum(row[5] or 0.0 for row in self.rows) or None
        columns = ("stage", "trainings", "minutes of each, planned", "given", "minutes in all",
                   "before that")  # fmt: skip
        plan = self.context.plan
        rows = (*self.rows, ("all", sum(row[1] for row in self.rows), None, None, total, earlier))
        card = {
            "budget": f"{self.budget:g} minutes" if self.budget else "none",
            "at a time": f"{plan.jobs} trainings",
            "minutes of each": "times the share of the data set: "
            + ", ".join(f"{f.name} {plan.share(f.name):.2f}" for f in self.context.sets),
            "in all": "of the run that found the result, without trainings that were there already",
            "before that": "of runs with other code or footage, some of whose trainings it took",
        }
        return StageResult((Table("Time by stage", columns, rows, card),))
