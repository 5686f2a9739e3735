"""What a study found: the order of its trials, the Pareto front, trials.csv and best.yaml.

Only finished trials count: one that was stopped, ran out of budget or failed never wins.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.commit import replace_durable
from trainer.config import Config, resolve
from trainer.settings import to_yaml
from tuning.command import THREADS, evaluation
from tuning.ledger import Account
from tuning.objectives import OBJECTIVES
from tuning.records import DONE, Record, Settings, folder_of

CSV, BEST = "trials.csv", "best.yaml"


def goodness(record: Record, objectives: Sequence[str]) -> tuple[float, ...]:
    """Scores turned so that more is better."""
    return tuple(
        record.scores[name] * (1 if OBJECTIVES[name].direction == "maximize" else -1)
        for name in objectives
    )


def ranked(records: Sequence[Record], objectives: Sequence[str]) -> list[Record]:
    """Finished trials by the first objective, best first; ties by the others, then by age."""
    done = [record for record in records if record.status == DONE]
    return sorted(done, key=lambda r: (*(-g for g in goodness(r, objectives)), r.id))


def front(records: Sequence[Record], objectives: Sequence[str]) -> list[Record]:
    """Finished trials that no other one beats: at least as good in all, better in one."""
    done = ranked(records, objectives)
    points = {record.id: goodness(record, objectives) for record in done}

    def beaten(record: Record) -> bool:
        mine = points[record.id]
        return any(
            all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in points.values()
        )

    return [record for record in done if not beaten(record)]


def best(records: Sequence[Record], objectives: Sequence[str]) -> Record | None:
    """The best finished trial by the first objective; it lies on the Pareto front."""
    return next(iter(ranked(records, objectives)), None)


def trials_csv(records: Sequence[Record], settings: Settings, account: Account) -> str:
    """One line per trial, in order."""
    paths = list(dict.fromkeys(path for record in records for path in record.values))
    on_front = {record.id for record in front(records, settings.objectives)}
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        ["trial", "parent", "status", "reason", "step", "accelerator_seconds", "pareto",
         *settings.objectives, *paths]
    )  # fmt: skip
    for record in records:
        table.writerow([
            record.id, record.parent, record.status, record.reason, record.step,
            round(account.of_trial(record.id), 3), int(record.id in on_front),
            *(record.scores.get(name, "") for name in settings.objectives),
            *(record.values.get(path, "") for path in paths),
        ])  # fmt: skip
    return out.getvalue()


def best_yaml(study: Path, record: Record, settings: Settings) -> str:
    """Config of a trial as a file to train with; above it the command that trains it and, where the
    objectives come from an evaluation, the one that gives them."""
    config = resolve(file=str(folder_of(study, record.id) / "config.yaml"))
    # Of its own: another winner of the study is no continuation of what this one has trained.
    title = f"{study.name}-{record.id}"
    scores = ", ".join(f"{name} {record.scores[name]!r}" for name in settings.objectives)
    launch = "accelerate launch --config_file accelerate_config.yaml --num_processes "
    head = [
        f"Trial {record.id}: {scores}. Train it again, on as many processes as the trial had:",
        f"{launch}{settings.workers} trainer/main.py --config {BEST}",
    ]
    if options := evaluation(settings):
        words = shlex.join(["python", "-m", "trainer.evaluate", f"runs/{title}", *options])
        head += ["Then have it judged as the trial was:", f"{THREADS}={settings.threads} {words}"]
    return "".join(f"# {line}\n" for line in head) + yaml_of(config, record, name=title)


def yaml_of(config: Config, record: Record, *, name: str) -> str:
    """A trial's config under another name, with all that an ordinary training leaves, and without
    what let Prometheus find the trial, which its record does not have."""
    train = replace(config.train, pictures=True, until=None)
    telemetry = resolve(record.words).telemetry
    return to_yaml(replace(config, name=name, train=train, telemetry=telemetry))


def write_outcome(
    study: Path, settings: Settings, records: Sequence[Record], account: Account
) -> Record | None:
    """Write trials.csv and, once a trial has finished, best.yaml; returns that trial."""
    replace_durable(study / CSV, trials_csv(records, settings, account).encode())
    winner = best(records, settings.objectives)
    if winner is not None:
        replace_durable(study / BEST, best_yaml(study, winner, settings).encode())
    return winner
