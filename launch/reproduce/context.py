"""What a stage gets and what it gives: the context, and results that survive as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from launch.reproduce.footage import FootageSet
from launch.reproduce.planner import Need, Plan
from trainer.distances import NOTHING, Wanted
from trainer.vgg import Vgg

Cell = str | float | int | None
"""Of a table; None is printed as a dash."""


class Table(NamedTuple):
    """Rows of figures under one protocol."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    card: dict[str, str]
    """The protocol: figures of tables with different cards must not be compared."""
    note: str = ""


class Claim(NamedTuple):
    """A statement of the paper or of the project, judged by the figures."""

    text: str
    holds: bool | None
    """None: could not be judged; `detail` says why."""
    detail: str
    cause: str = ""
    """The likely cause where it does not hold, or is not settled."""


class Picture(NamedTuple):
    """A file below the output folder."""

    title: str
    file: str


class StageResult(NamedTuple):
    """What a stage found out."""

    tables: tuple[Table, ...] = ()
    claims: tuple[Claim, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


Model = tuple[str, int]
"""A model of the ablation, and its seed."""
Made = Mapping[str, int]
"""How many models of the ablation a stage makes, by data set."""
NOT_MADE: Made = MappingProxyType({})


class Stage(NamedTuple):
    """One experiment of the paper."""

    title: str
    trainings: Callable[[FootageSet, Plan], int]
    """How many trainings it will ask for on a data set, for the planner."""
    run: Callable[[Context], StageResult]
    rest: tuple[float, float]
    """Seconds of everything but trainings on two cores: for each data set, and besides for each of
    its seeds and 100 random videos."""
    fixed: bool = False
    """Its trainings are compared with those of another stage, so they are never shortened."""
    fitting: float = 0.0
    """Seconds that `trainer.fit` takes after each of its trainings, for 100 of its steps."""
    uses: Callable[[FootageSet, Plan], frozenset[Model]] = lambda footage, plan: frozenset()
    """Models of the ablation that it looks at, and makes itself where they are not there."""

    def count(self, footage: FootageSet, plan: Plan, made: Made = NOT_MADE) -> int:
        """Trainings that it asks for on a data set; `made`: those of the ablation among them."""
        return self.trainings(footage, plan) + made.get(footage.name, 0)

    def need(self, sets: Sequence[FootageSet], plan: Plan, made: Made = NOT_MADE) -> Need:
        """What it takes on these data sets."""
        counts = {footage.name: self.count(footage, plan, made) for footage in sets}
        seconds = sum(
            self.rest[0]
            + self.rest[1] * seeds_on(footage, plan) * plan.randoms / 100
            + self.fitting * counts[footage.name] * plan.fit_steps / 100
            for footage in sets
        )
        return Need(
            sum(counts.values()) / plan.jobs,
            sum(count * plan.share(name) for name, count in counts.items()) / plan.jobs,
            seconds / 60,
            self.fixed or any(made.values()),  # other stages look at the same ones
        )


def makers(
    stages: Mapping[str, Stage], sets: Sequence[FootageSet], plan: Plan
) -> dict[str, dict[str, int]]:
    """How many models of the ablation each stage makes, by data set: those that it uses and no
    stage before it does; none, where the ablation itself is among the stages."""
    found: dict[str, dict[str, int]] = {name: {} for name in stages}
    for footage in sets if "ablation" not in stages else ():
        there: frozenset[Model] = frozenset()
        for name, stage in stages.items():
            used = stage.uses(footage, plan)
            found[name][footage.name], there = len(used - there), there | used
    return found


def models(names: Iterable[str], seeds: int) -> frozenset[Model]:
    """Some models of the ablation, with every seed."""
    return frozenset((name, seed) for name in names for seed in range(seeds))


def seeds_on(footage: FootageSet, plan: Plan) -> int:
    """Seeds of each variant on a data set."""
    return plan.seeds_on(synthetic=not footage.root)


@dataclass(frozen=True)
class Context:
    """Everything a stage may look at. Equal contexts give equal results, up to timed trainings."""

    out: Path
    """Folder of footage, runs, logs, pictures and the state."""
    sets: tuple[FootageSet, ...]
    plan: Plan
    vgg: Vgg | None
    """Feature network of MCS."""
    no_vgg: str
    """Why there is none."""
    start: Callable[[str, list[str], Path], int]
    """Runs a module of the project with these arguments, its output into a file; its exit code.
    Called from `Plan.jobs` threads."""
    wanted: Wanted = NOTHING
    """LPIPS and FVD, where their files were given."""
    asked: set[str] = field(default_factory=set, compare=False)
    """Filled by stages: names of the trainings that they look at, made now or found."""

    def picture(self, name: str) -> Path:
        """Where a picture goes."""
        path = self.out / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def to_json(result: StageResult) -> dict[str, Any]:
    """Plain values; not-a-number and infinity become None."""
    return {
        "tables": [
            {**table._asdict(), "rows": [[_finite(cell) for cell in row] for row in table.rows]}
            for table in result.tables
        ],
        "claims": [claim._asdict() for claim in result.claims],
        "pictures": [picture._asdict() for picture in result.pictures],
        "notes": list(result.notes),
    }


def from_json(found: dict[str, Any]) -> StageResult:
    """The inverse of `to_json`."""
    tables = tuple(
        Table(t["title"], tuple(t["columns"]), tuple(map(tuple, t["rows"])), t["card"], t["note"])
        for t in found["tables"]
    )
    return StageResult(
        tables,
        tuple(Claim(**claim) for claim in found["claims"]),
        tuple(Picture(**picture) for picture in found["pictures"]),
        tuple(found["notes"]),
    )


def _finite(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def merged(results: Sequence[StageResult]) -> StageResult:
    """Results of several data sets as one."""
    return StageResult(
        tuple(table for result in results for table in result.tables),
        tuple(claim for result in results for claim in result.claims),
        tuple(picture for result in results for picture in result.pictures),
        tuple(note for result in results for note in result.notes),
    )


def mean_std(values: Sequence[float], *, digits: int = 3) -> str | None:
    """`mean ± sd` over seeds; the mean alone of one, None of none."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"
