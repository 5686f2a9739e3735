"""Stages under a budget of wall time: what each is given, what it took, what was left out.

The plan gives every training the same minutes. Before a stage begins, what is left of the budget is
compared with what this stage and those after it take at the pace seen so far. Where it is less or
more, trainings of the stages that stand for themselves are shortened or lengthened, alike within a
stage; those that are compared with another stage's are as planned or left out. The report says
which, and whether the whole kept to its budget.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from launch.reproduce import planner, state
from launch.reproduce.context import Cell, Claim, Context, Stage, StageResult, Table, makers
from launch.reproduce.lives import BEAT, Lives
from launch.reproduce.planner import Need

COLUMNS = ("stage", "trainings", "minutes of each, planned", "given", "minutes in all",
           "before that")  # fmt: skip


class Pacing:
    """Runs stages in their order. Minutes given are kept, so that a killed stage goes on with the
    same trainings."""

    def __init__(
        self,
        context: Context,
        stages: Mapping[str, Stage],
        kept: state.State,
        lives: Lives,
        *,
        budget: float | None,
    ) -> None:
        """`budget`: minutes, which all `lives` of this run spend; None: no limit."""
        self.context, self.stages, self.kept, self.lives = context, stages, kept, lives
        self.budget = budget
        self.makers = makers(stages, context.sets, context.plan)
        self.done: list[tuple[Need, float, float]] = []
        self.rows: list[tuple[Cell, ...]] = []
        self.left_out: list[str] = []
        self.used: set[str] = set()
        """Names of the trainings that results come from."""

    @property
    def left(self) -> float:
        """Minutes of the budget, at least 0."""
        return max(0.0, (self.budget or 0.0) - self.lives.spent() / 60)

    def need(self, name: str) -> Need:
        """What a stage takes, by plan."""
        made = self.makers.get(name, {})
        return self.stages[name].need(self.context.sets, self.context.plan, made)

    def trainings(self, name: str) -> int:
        """How many trainings a stage asks for."""
        sets, plan = self.context.sets, self.context.plan
        made = self.makers.get(name, {})
        return sum(self.stages[name].count(footage, plan, made) for footage in sets)

    def run(self, name: str) -> StageResult:
        """A stage's result; one that says why where it was left out."""
        need, planned = self.need(name), self.context.plan.minutes
        each = self.given(name)
        if planned is not None and each is None:
            return self.leave_out(name)
        print(f"stage {name}: {self.outlook(name, need, each)}", file=sys.stderr, flush=True)
        context = replace(self.context, plan=replace(self.context.plan, minutes=each))
        result = state.run_stage(context, self.kept, self.lives, name, self.stages[name])
        self.used.update(self.kept.trainings(name))
        seconds = self.lives.took(name)
        took = None if seconds is None else seconds / 60
        if took is not None:
            self.done.append((need, each or 0.0, took))
        before = self.lives.before(name) / 60 or None
        self.rows.append((name, self.trainings(name), planned, each, took, before))
        return result

    def leave_out(self, name: str) -> StageResult:
        """Say that a stage does not fit; those after it make themselves what it would have made."""
        text = f"left out: {self.left:.1f} minutes of the budget were left"
        print(f"stage {name}: {text}", file=sys.stderr, flush=True)
        planned = self.context.plan.minutes
        self.rows.append((name, self.trainings(name), planned, None, None, None))
        self.left_out.append(name)
        staying = {key: one for key, one in self.stages.items() if key not in self.left_out}
        self.makers = makers(staying, self.context.sets, self.context.plan)
        return StageResult(notes=(f"{text}; --stages {name} runs it with a budget to itself",))

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
        before = self.lives.minutes_of(name)
        if before is not None:
            return before
        names = list(self.stages)
        needs = [self.need(later) for later in names[names.index(name) :]]
        pace = planner.pace_of(self.done)
        reserve = (1 - planner.SHARE) * self.budget
        minutes = planner.given(self.left, needs, planned=planned, pace=pace, reserve=reserve)
        if minutes is not None:
            self.lives.give(name, minutes)
        return minutes

    def lengths(self) -> str:
        """Minutes that a training was given by data set, and in which stages, in words; empty
        where presets say how long."""
        plan, stages = self.context.plan, {}
        for name, count, planned, each, *_ in self.rows:
            if planned is not None and each is not None and count:
                about = ", ".join(
                    f"{footage.name} {float(each) * plan.share(footage.name):.2f}"
                    for footage in self.context.sets
                )
                stages.setdefault(about, []).append(f"{name} ({count})")
        told = "; ".join(f"{about} in {', '.join(names)}" for about, names in stages.items())
        return f"minutes of a training by stage (and how many there are): {told}" if told else ""

    def time(self) -> StageResult:
        """What was planned, given and taken, and whether the budget was kept, for the report."""
        rows = (*self.rows, self._sum(), ("the whole run", *[None] * 3, self.whole(), None))
        plan, sets = self.context.plan, self.context.sets
        card = {
            "budget": f"{self.budget:g} minutes" if self.budget else "none",
            "at a time": f"{plan.jobs} trainings",
            "minutes of each": "times the share of the data set: "
            + ", ".join(f"{f.name} {plan.share(f.name):.2f}" for f in sets),
            "in all": "of every life of this run that led to the result, a killed one up to its "
            f"last sign (one every {BEAT:g} s)",
            "before that": "of results that this one replaced, some of whose trainings it took",
            "the whole run": "wall time of every life of it, from the start of its process on, "
            "with preparing footage and writing reports; of those that found everything done none",
        }
        claims = (self.judged(self.budget),) if self.budget else ()
        return StageResult((Table("Time by stage", COLUMNS, rows, card),), claims)

    def _sum(self) -> tuple[Cell, ...]:
        def over(column: int) -> float:
            return sum(float(row[column] or 0.0) for row in self.rows)

        return ("all stages", round(over(1)), None, None, over(4), over(5) or None)

    def whole(self) -> float:
        """Minutes of all lives of this run up to now."""
        return sum(life.seconds for life in self.lives.counted()) / 60

    def wall(self) -> str:
        """The same in words."""
        lives = len(self.lives.counted())
        text = f"{self.whole():.1f} minutes of wall time"
        return f"{text} in {lives} lives" if lives > 1 else text

    def sources(self) -> str:
        """Which lives and which code the trainings come from, in words; empty without trainings."""
        found = self.lives.origins(self.used)
        kinds = (
            (found.here, "made by this life"),
            (found.earlier, "begun by earlier lives of this run"),
            (found.elsewhere, "of other runs or none on record, whose time is not counted"),
        )
        told = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
        other = f"; {found.other_code} of other code" if found.other_code else ""
        return f"{len(self.used)}: {told}{other}" if told else ""

    def judged(self, budget: float) -> Claim:
        """Whether everything ran within so many minutes; not before the last stage."""
        text = f"the whole budget ran within {budget:g} minutes"
        if len(self.rows) < len(self.stages):
            detail = f"{self.wall()} so far, for {len(self.rows)} of {len(self.stages)} stages"
            return Claim(text, None, detail)
        if self.left_out:
            detail = f"{self.wall()}; left out: {', '.join(self.left_out)}"
            return Claim(text, False, detail, self._why_long())
        if self.whole() > budget:
            return Claim(text, False, self.wall(), self._why_long())
        trainings = self.lives.origins(self.used).elsewhere
        stages = sum(row[4] is None for row in self.rows)
        if trainings or stages:
            missing = f"{trainings} trainings and {stages} stages of other runs"
            detail = f"{self.wall()}, without that of {missing}"
            return Claim(text, None, detail, "the output folder held them already")
        return Claim(text, True, self.wall())

    def _why_long(self) -> str:
        if self.lives.again():
            return "stages ran again, as after a change of code or footage, and every life counts"
        if len(self.lives.counted()) > 1:
            return "what a killed life had not finished was begun again, and every life counts"
        longer = [
            str(name) for name, _, planned, each, *_ in self.rows
            if planned and each and float(each) > float(planned)
        ]  # fmt: skip
        if self.left_out and longer:
            return f"trainings of {', '.join(longer)} were given more than was planned"
        pace = planner.pace_of(self.done)
        if pace > 1:
            return f"everything but training took {pace:.1f} times as long as planned"
        return "preparing the footage, or trainings, took longer than planned"
