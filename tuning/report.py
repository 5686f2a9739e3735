"""What a search leaves: trials.csv, best.yaml, and a page that says why the best trial is best.

Run: python -m tuning.report STUDY
Learning curves, Pareto front, importance of settings, parallel coordinates, budget by trial,
samples of the best trials, failures. Works at any moment, also while the search runs.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from data_shards.ending import ended
from data_shards.errors import UserError
from trainer import journal
from trainer.commit import replace_durable
from trainer.leaving import one_line
from tuning import drawing
from tuning.command import HIDDEN
from tuning.ledger import Account, Ledger
from tuning.objectives import OBJECTIVES
from tuning.outcome import front, ranked, write_outcome
from tuning.records import FAILED, Record, Settings, folder_of, read_records, read_settings
from tuning.sampling import import_optuna, replay
from tuning.space import Range, Space

REPORT = "report.html"
SHEET = Path("samples") / "sheet.png"
SHOWN = 4
"""Best trials whose samples are shown side by side."""
BETTER = 5
"""Trials that importance rests on at least where there are twice as many: of fewer, as its authors
say, it is mostly chance."""


class Written(NamedTuple):
    """What is known of a study, as it was written down."""

    settings: Settings
    records: list[Record]
    account: Account
    winner: Record | None


def write_down(study: Path, *, sheets: bool = True) -> Written:
    """Write STUDY/{trials.csv, report.html} and, once a trial has finished, STUDY/best.yaml.

    Args:
        sheets: have the best trials show what they generate, too; takes seconds for each.

    Raises:
        UserError: not a study, or optuna is not installed.
    """
    settings, records, account = read_settings(study), read_records(study), Ledger(study).account()
    winner = write_outcome(study, settings, records, account)
    if sheets:
        write_sheets(study, settings, ranked(records, settings.objectives)[:SHOWN])
    replace_durable(study / REPORT, page(study, settings, records, account).encode())
    return Written(settings, records, account, winner)


def page(
    study: Path, settings: Settings, records: Sequence[Record], account: Account
) -> str:  # fmt: skip
    """The HTML of a study's report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tuning", "page"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    good = goods(records, settings.objectives)
    best = front(records, settings.objectives)
    order = ranked(records, settings.objectives)
    ranges = ranges_of(settings)
    return environment.get_template("study.html").render(
        name=study.name, settings=settings, account=account, records=records, order=order,
        objectives=[OBJECTIVES[name] for name in settings.objectives],
        front=[record.id for record in best], paths=[item.path for item in ranges],
        leaf=leaf, most=max((account.of_trial(r.id) for r in records), default=0.0) or 1.0,
        curves=Markup(drawing.curves([curve(study, r, good.get(r.id)) for r in records])),
        pareto=pareto(records, settings.objectives),
        parallel=Markup(parallel(records, ranges, good)),
        importance=importance(settings, records), samples=samples(study, order[:SHOWN]),
        failures=[record for record in records if record.status == FAILED],
    )  # fmt: skip


def ranges_of(settings: Settings) -> list[Range]:
    """The searched ranges as the study has kept them."""
    rows = [Range(**row) for row in settings.space["ranges"]]
    return [row._replace(choices=tuple(row.choices)) for row in rows]


def goods(records: Sequence[Record], objectives: Sequence[str]) -> dict[str, float]:
    """How good each finished trial is by the first objective: 0 the worst, 1 the best."""
    order = ranked(records, objectives)
    last = max(1, len(order) - 1)
    return {record.id: 1 - place / last for place, record in enumerate(order)}


def curve(study: Path, record: Record, good: float | None) -> drawing.Line:
    """Training PSNR over steps."""
    path = folder_of(study, record.id) / "metrics.jsonl"
    lines = journal.read(path) if path.is_file() else []
    points = [(x["step"], x["psnr"]) for x in lines if x.get("psnr") is not None]
    return drawing.Line(points, good)


def pareto(records: Sequence[Record], objectives: Sequence[str]) -> list[tuple[str, Markup]]:
    """Each two objectives against each other, with what is shown; none with one objective."""
    done, on = ranked(records, objectives), {r.id for r in front(records, objectives)}
    found = []
    for across, up in itertools.combinations(objectives, 2) if done else ():
        points = [(r.scores[across], r.scores[up]) for r in done]
        names = (OBJECTIVES[across].meaning, OBJECTIVES[up].meaning)
        drawn = drawing.scatter(points, [r.id in on for r in done], names)
        found.append((f"{names[1]} against {names[0]}", Markup(drawn)))
    return found


def parallel(records: Sequence[Record], ranges: Sequence[Range], good: dict[str, float]) -> str:
    """Values of every trial, one axis per setting."""
    columns, axes = [], []
    for item in ranges:
        values = [record.values[item.path] for record in records]
        places = [item.choices.index(v) for v in values] if item.choices else values
        columns.append(drawing.shares(places, log=item.log))
        ends = [values[places.index(end(places))] for end in (min, max)] if values else ["", ""]
        axes.append(drawing.Axis(leaf(item.path), *map(spell, ends)))
    rows = list(zip(*columns, strict=True))
    return drawing.parallel(rows, [good.get(record.id) for record in records], axes)


def leaf(path: str) -> str:
    """A setting's name without its component."""
    return path.rpartition(".")[2]


def spell(value: Any) -> str:
    """A value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def importance(settings: Settings, records: Sequence[Record]) -> list[tuple[str, float]]:
    """How much each setting tells the better trials by the first objective from the others
    (PED-ANOVA, shares of 1), largest first; empty with too few finished trials. The better ones are
    a tenth, or five where that is more, but no more than half."""
    finished = len(ranked(records, settings.objectives))
    if finished < 4:
        return []
    optuna = import_optuna()
    sign = -1 if OBJECTIVES[settings.objectives[0]].direction == "maximize" else 1
    space = Space(tuple(ranges_of(settings)), settings.space["total"])
    study = replay(space, settings.objectives, records)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it looks at the lowest, and says so
        found = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(
                target_quantile=min(0.5, max(0.1, BETTER / finished))
            ),
            target=lambda trial: sign * trial.values[0],
        )
    return sorted(found.items(), key=lambda item: -item[1])


def write_sheets(study: Path, settings: Settings, best: Sequence[Record]) -> None:
    """Have the best trials show what they generate: trials write no samples themselves. Under a
    budget of cores that is done on the CPU, too. What cannot be shown costs a warning."""
    folders = [folder_of(study, record.id) for record in best]
    for folder in folders:
        if not (folder / SHEET).is_file() and any((folder / "checkpoints").glob("step-*")):
            if not settings.gpus:
                os.environ.update(HIDDEN)  # torch has not looked for GPUs yet
            try:
                from trainer.run import open_run
                from trainer.summary import write_sheet

                write_sheet(open_run(folder))
            except Exception as error:  # the page stands without its pictures
                # As where a study was copied without its footage, or a GPU is full.
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                why = f"{kind}{one_line(error)}"
                print(f"warning: no samples of {folder.name}: {why}", file=sys.stderr)


def samples(study: Path, best: Sequence[Record]) -> list[tuple[str, Any]]:
    """Sheets of the best trials as data URIs."""
    found = []
    for record in best:
        path = folder_of(study, record.id) / SHEET
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            found.append((record.id, Markup(f"data:image/png;base64,{data}")))
    return found


@ended
def main(argv: list[str] | None = None) -> int:
    """Write all three and print where the page is; 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m tuning.report", description=__doc__)
    parser.add_argument("study", type=Path, metavar="STUDY", help="a search's --out")
    try:
        study = parser.parse_args(argv).study.resolve()
        write_down(study)
        print(study / REPORT)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
