"""The stages of `benchmarks.tuning`, in order: each adds what it has found to what is known."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.tuning_bench import Bench, tethered
from benchmarks.tuning_compare import JUDGEMENTS, Found, compare, kinds, trained, trainings
from benchmarks.tuning_judging import fits, judge_seconds, judged
from benchmarks.tuning_kills import INTERVAL, kill_once
from trainer import journal
from trainer.config import resolve
from tuning.engine import clear_up
from tuning.ledger import Ledger
from tuning.objectives import OBJECTIVES
from tuning.outcome import best
from tuning.records import DONE, FIRST, Record, folder_of, read_records, read_settings
from tuning.report import ranges_of
from tuning.space import Space, values_of

ACTIONS = ("bend", "wave1", "wave2")
HELD_OUT = tuple((f"person{i}", ACTIONS[i % 3]) for i in range(9))
VALIDATION, TEST, SEARCHERS = HELD_OUT[:4], HELD_OUT[4:], ("optuna", "random")
KILL_SECONDS, START_SECONDS, TRIALS_OF_OVERHEAD = 21.0, 15.0, 8


def costs(args: argparse.Namespace, cores: int) -> dict[str, float]:
    """Seconds of every stage; the studies share what the others leave of the minutes."""
    rounds, pairs = -(-TRIALS_OF_OVERHEAD // cores), -(-args.seeds // cores)
    compared = trainings(args) * (1.1 * args.trial_seconds + START_SECONDS)
    # Of each study its best trial and its first; what is compared is judged in full.
    judged = 2 * len(SEARCHERS) * judge_seconds(fit=fits(args.objective))
    judged += len(JUDGEMENTS) * len(kinds(args)) * judge_seconds(fit=True)
    fixed = {
        "prepare": 10.0,
        "calibrate": 30.0,
        "kills": args.kills * KILL_SECONDS,
        "overhead": START_SECONDS + 1.1 * rounds * args.trial_seconds,
        "compare": pairs * compared,
        "judgements": args.seeds * judged,
    }
    studies = max(0.0, 60 * args.minutes - sum(fixed.values()))
    return {**fixed, "studies": studies}


def prepare(bench: Bench, found: Found) -> Found:
    """Three sets: trained on, with the validation cells held out beside it; and the test cells."""
    return {"sets": bench.once("prepare", lambda: prepared(bench))}


def prepared(bench: Bench) -> dict[str, str]:
    """Places of the sets."""
    strips = bench.args.footage.resolve()
    names = sorted(f"{p.parent.name}/{p.name}" for p in strips.glob("*/*.png"))
    test = [f"{action}/{person}.png" for person, action in TEST]
    for name, videos in (("data", [n for n in names if n not in test]), ("test", test)):
        (bench.out / f"{name}.txt").write_text("\n".join(videos) + "\n")
        cells = ",".join(":".join(cell) for cell in VALIDATION)
        held = ["--hold-out", cells] if name == "data" else []
        bench.python(
            "data_shards.prepare", "strips", "--root", str(strips), "--labels", "folders",
            "--list", f"{name}.txt", "--out", name, "--name", f"weizmann-{name}", *held,
        )  # fmt: skip
    return {"data": str(bench.out / "data"), "test": str(bench.out / "test")}


def calibrate(bench: Bench, found: Found) -> Found:
    """Steps of the preset that take `--trial-seconds`."""

    def one(number: int) -> float:
        made = trained(
            bench, f"calibrate-{number}", "preset=weizmann",
            f"data.manifest={found['sets']['data']}",
            f"train.minutes={bench.args.trial_seconds / 240:.4f}", *bench.args.words,
        )  # fmt: skip
        if made["steps"] is None:
            raise SystemExit("calibrate: the preset is not finite: nothing can be compared with it")
        return made["steps"] / made["seconds"]

    def steps() -> int:
        with ThreadPoolExecutor() as pool:  # as many at a time as a search has
            paces = list(pool.map(one, range(bench.cores)))
        return max(9, round(sum(paces) / len(paces) * bench.args.trial_seconds))

    return {"steps": bench.once("calibrate", lambda: bench.args.steps or steps())}


def search_line(bench: Bench, data: str, out: Path, *words: str) -> list[str]:
    """Command line of a search as all of this bench share it."""
    searched = () if "--space" in words else ("--rates",)
    return ["tuning.search", "--manifest", data, "--out", str(out), *searched, "--scheduler",
            "none", "--interval", str(INTERVAL), *words, "preset=weizmann", "telemetry.log=none",
            *bench.args.words]  # fmt: skip


def kills(bench: Bench, found: Found) -> Found:
    """Kill a search again and again; each kill is kept as soon as it is settled."""
    study = bench.out / "kills"
    line = tethered("-m", *search_line(
        bench, found["sets"]["data"], study, "--cpu-hours", "100", "--steps", "1000000",
        "--max-concurrent", "1", "networks.channels=16", "checkpoint.minutes=0.1",
        "train.log_steps=2",
    ))  # fmt: skip
    made = [
        bench.once(f"kill-{number}", lambda number=number: kill_once(
            line, study, number=number, log=bench.out / "log")._asdict())
        for number in range(bench.args.kills)
    ]  # fmt: skip
    errors = [(kill["charged"] - kill["held"]) / INTERVAL for kill in made]
    return {"kills": made, "ledger_intervals": errors}


def seconds_trained(study: Path, record: Record) -> float:
    """Training time of a trial, whether it was finished or not."""
    path = folder_of(study, record.id) / "metrics.jsonl"
    return max((x["seconds"] for x in journal.read(path)), default=0.0) if path.is_file() else 0.0


def seconds_of(study: Path, some: Sequence[Record]) -> float | None:
    """Training time of a trial; None for none."""
    return seconds_trained(study, some[0]) if some else None


def given(study: Path, objective: str) -> float | None:
    """Score of a study's first trial where that is the configuration given, and was finished."""
    settings, records = read_settings(study), read_records(study)
    space = Space(tuple(ranges_of(settings)), settings.space["total"])
    preset = values_of(space, resolve(settings.words))
    if preset is None or not records or records[0].values != preset:
        return None
    return records[0].scores.get(objective)


def searched(bench: Bench, data: str, out: Path, *words: str) -> dict[str, Any]:
    """One search: wall time, what its trials held and trained, and its best trial.

    Overhead is the share of the cores' time, from the search's first moment to its last, in which
    no trial trained; None where the search was begun before.
    """
    begun, whole = time.monotonic(), not out.exists()
    code = bench.python(*search_line(bench, data, out, *words), may=(0, 1))
    wall, account, records = time.monotonic() - begun, Ledger(out).account(), read_records(out)
    if code and account.left >= INTERVAL:  # Ray was lost, or the search gave up
        raise SystemExit(f"{out.name}: ended with {account.left:.0f} accelerator-seconds left; see "
                         f"{bench.out / 'log'}; the same command goes on")  # fmt: skip
    spent = sum(seconds_trained(out, record) for record in records)
    objective = words[words.index("--objective") + 1] if "--objective" in words else "psnr"
    winner = best(records, (objective,))
    return {
        "wall": wall, "held": account.spent, "budget": account.budget, "trained": spent,
        "overhead": 1 - spent / (bench.cores * wall) if whole else None,
        "overhead_of_trials": 1 - spent / account.spent if account.spent else None,
        "trials": len(records), "done": sum(r.status == DONE for r in records),
        "given": given(out, objective), "given_seconds": seconds_of(out, records[:1]),
        "best_seconds": seconds_of(out, [winner] if winner else []),
        "best": winner.id if winner else None, "scores": dict(winner.scores) if winner else {},
        "values": winner.values if winner else {},
    }  # fmt: skip


def overhead(bench: Bench, found: Found) -> Found:
    """A search without evaluations, all at one sitting: one that was interrupted is begun anew."""
    study = bench.out / "overhead"

    def anew() -> dict[str, Any]:
        if study.exists():
            clear_up(study)
            shutil.rmtree(study)
        return searched(
            bench, found["sets"]["data"], study, "--cpu-hours", "100", "--steps",
            str(found["steps"]), "--searcher", "random", "--trials", str(TRIALS_OF_OVERHEAD),
        )  # fmt: skip

    return {"overhead": bench.once("overhead", anew)}


def studies(bench: Bench, found: Found) -> Found:
    """Searches of both kinds under the same budget, one pair for each seed; test cells judge."""
    args, sets, made = bench.args, found["sets"], {}
    # In the studies alone: kills and overhead are of trainings that are all alike.
    space = ("--space", str(args.space.resolve())) if args.space else ()
    fit = fits(args.objective)
    share = costs(args, bench.cores)["studies"] / (len(SEARCHERS) * args.seeds) - START_SECONDS
    hours = bench.once("cpu_hours", lambda: round(share * bench.cores / 3600, 4))
    for seed in range(args.seeds):
        for searcher in SEARCHERS:
            name = f"{searcher}-{seed}"
            out = bench.out / name
            words = ("--cpu-hours", str(hours), "--steps", str(found["steps"]), "--searcher",
                     searcher, "--seed", str(seed), "--objective", args.objective,
                     *space, *bench.weights)  # fmt: skip
            study = bench.once(
                name, lambda out=out, words=words: searched(bench, sets["data"], out, *words)
            )
            run = folder_of(out, study["best"]) if study["best"] else None
            test = bench.once(
                f"{name}-test",
                lambda run=run: judged(bench, run, sets["test"], fit=fit) if run else {},
            )
            first = given_test(bench, name, study, test, where=sets["test"])
            made[name] = {**study, "test": test, "given_test": first}
    return {"cpu_hours": hours, "studies": made, "winner": winner_of(made, args.objective)}


def given_test(
    bench: Bench, name: str, study: Mapping[str, Any], test: Mapping[str, Any], *, where: str
) -> dict[str, float | None]:
    """Test figures of a study's first trial; none where that is not the configuration given."""
    if study["given"] is None:
        return {}
    if study["best"] == FIRST:
        return dict(test)
    run = folder_of(bench.out / name, FIRST)
    fit = fits(bench.args.objective)
    return bench.once(f"{name}-given-test", lambda: judged(bench, run, where, fit=fit))


def winner_of(made: Mapping[str, Mapping[str, Any]], objective: str) -> str:
    """The study whose best trial gained most over the configuration given; empty: there is none.

    Studies train with seeds of their own, so what each gained is compared, not what it reached.
    """
    sign = 1 if OBJECTIVES[objective].direction == "maximize" else -1
    gains = {
        name: sign * (study["scores"][objective] - study["given"])
        for name, study in made.items()
        if name.startswith(SEARCHERS[0]) and study["given"] is not None and study["best"]
    }
    return max(gains, key=lambda name: gains[name], default="")


STAGES: dict[str, Callable[[Bench, Found], Found]] = {
    stage.__name__: stage for stage in (prepare, calibrate, kills, overhead, studies, compare)
}
