"""What a search is worth, against the preset and against chance, what it costs, what it charges.

Run: make bench-tuning ARGS="--footage DIR/weizmann_strips --vgg FILE --out DIR"
Says first how long it takes. Each stage's result is kept in OUT/state.json: the same command goes
on where it was. Person i's cell i % 3 is not trained on: those of persons 0 to 3 choose among
trials (validation), those of persons 4 to 8 judge (test). By default MCS counts, of these videos
after their latents were fitted with the networks frozen. Ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.tuning_kills import INTERVAL, kill_once
from benchmarks.tuning_page import as_text, write_page
from trainer import journal
from trainer.commit import read_json, update_json
from tuning.ledger import Ledger
from tuning.objectives import FIT_STEPS, OBJECTIVES
from tuning.outcome import best
from tuning.records import DONE, Record, folder_of, read_records

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = ("bend", "wave1", "wave2")
HELD_OUT = tuple((f"person{i}", ACTIONS[i % 3]) for i in range(9))
VALIDATION, TEST, SEARCHERS = HELD_OUT[:4], HELD_OUT[4:], ("optuna", "random")
JUDGED = ("unseen-mcs", "unseen-fcs", "unseen", "exchange")
KILL_SECONDS, START_SECONDS, TRIALS_OF_OVERHEAD = 24.0, 15.0, 8


class Bench:
    """Runs stages once and keeps what they found in OUT/state.json."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, args.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.cores = len(os.sched_getaffinity(0))
        self.weights = ["--vgg", str(args.vgg.resolve())]
        asked = {key: str(value) for key, value in vars(args).items() if key != "write"}
        if self.once("asked", lambda: asked) != asked:
            raise SystemExit(f"{args.out}: holds figures of other settings; choose another --out")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A stage's result, from its file or made now."""
        known = read_json(self.out / "state.json")
        if name not in known:
            begun = time.monotonic()
            update_json(self.out / "state.json", **{name: make()})
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        return read_json(self.out / "state.json")[name]

    def python(self, *words: str, check: bool = True) -> int:
        """Run a module of the project; its output goes to OUT/log."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with (self.out / "log").open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", *words], stdout=log, stderr=log, cwd=self.out,
                env={**os.environ, "PYTHONPATH": path}, check=False,
            )  # fmt: skip
        if check and done.returncode:
            raise SystemExit(f"{' '.join(words[:3])} ...: code {done.returncode}; see {log.name}")
        return done.returncode


def costs(args: argparse.Namespace, cores: int) -> dict[str, float]:
    """Seconds of every stage; the studies share what the others leave of the minutes."""
    rounds, pairs = -(-TRIALS_OF_OVERHEAD // cores), -(-args.seeds // cores)
    # The preset without the settings that all share may take twice as long.
    compared = (4 if args.words else 2) * (1.1 * args.trial_seconds + START_SECONDS)
    fixed = {
        "prepare": 10.0,
        "calibrate": 30.0,
        "kills": args.kills * KILL_SECONDS,
        "overhead": START_SECONDS + 1.1 * rounds * args.trial_seconds,
        "compare": pairs * compared + 4 * args.seeds * 4.0,
    }
    studies = max(0.0, 60 * args.minutes - sum(fixed.values()))
    return {**fixed, "studies": studies}


def prepare(bench: Bench) -> dict[str, str]:
    """Three sets: trained on, with the validation cells held out beside it; and the test cells."""
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


def trained(bench: Bench, name: str, *words: str) -> dict[str, Any]:
    """An ordinary training on one core: seconds, steps and PSNR."""
    bench.python("trainer.main", "train.threads=1", f"name={name}", "train.pictures=false",
                 "telemetry.log=none", *words)  # fmt: skip
    run = read_json(bench.out / "runs" / name / "run.json")
    return {**run["final"], "steps": run["step"]}


def calibrate(bench: Bench, data: str) -> int:
    """Steps of the preset that take `--trial-seconds`."""

    def one(number: int) -> dict[str, Any]:
        return trained(
            bench, f"calibrate-{number}", "preset=weizmann", f"data.manifest={data}",
            f"train.minutes={bench.args.trial_seconds / 240:.4f}", *bench.args.words,
        )  # fmt: skip

    with ThreadPoolExecutor() as pool:  # as many at a time as a search has
        found = list(pool.map(one, range(bench.cores)))
    each = sum(f["steps"] / f["seconds"] for f in found) / len(found)
    return max(9, round(each * bench.args.trial_seconds))


def search_line(bench: Bench, data: str, out: Path, *words: str) -> list[str]:
    """Command line of a search as all of this bench share it."""
    return ["tuning.search", "--manifest", data, "--out", str(out), "--rates", "--scheduler",
            "none", "--interval", str(INTERVAL), *words, "preset=weizmann", "telemetry.log=none",
            *bench.args.words]  # fmt: skip


def seconds_trained(study: Path, record: Record) -> float:
    """Training time of a trial, whether it was finished or not."""
    path = folder_of(study, record.id) / "metrics.jsonl"
    return max((x["seconds"] for x in journal.read(path)), default=0.0) if path.is_file() else 0.0


def searched(bench: Bench, data: str, out: Path, *words: str) -> dict[str, Any]:
    """One search: wall time, what its trials held and trained, and its best trial.

    Overhead is the share of the cores' time, from the search's first moment to its last, in which
    no trial trained.
    """
    begun, whole = time.monotonic(), not out.exists()
    code = bench.python(*search_line(bench, data, out, *words), check=False)
    if code not in (0, 1):
        raise SystemExit(f"{out}: the search ended with code {code}; see {bench.out / 'log'}")
    wall, account, records = time.monotonic() - begun, Ledger(out).account(), read_records(out)
    spent = sum(seconds_trained(out, record) for record in records)
    objectives = (words[words.index("--objective") + 1],) if "--objective" in words else ("psnr",)
    winner = best(records, objectives)
    given = records[0].scores.get(objectives[0]) if records else None
    return {
        "wall": wall, "held": account.spent, "budget": account.budget, "trained": spent,
        "overhead": 1 - spent / (bench.cores * wall) if whole else None,  # begun before: unknown
        "overhead_of_trials": 1 - spent / account.spent,
        "trials": len(records), "done": sum(r.status == DONE for r in records),
        "given": given,
        "best": winner.id if winner else None, "scores": dict(winner.scores) if winner else {},
        "values": winner.values if winner else {},
    }  # fmt: skip


def judged(bench: Bench, run: Path, cells: str | None) -> dict[str, float]:
    """Scores of held-out cells (None: the validation cells), evaluation.json left as it was."""
    file = run / "evaluation.json"
    before = file.read_bytes() if file.is_file() else None
    where = ["--held-out", cells] if cells else []
    bench.python("trainer.evaluate", str(run), "--videos", "1", "--fit", str(FIT_STEPS),
                 *bench.weights, *where)  # fmt: skip
    found = {name: OBJECTIVES[name].read(run, "") for name in JUDGED}
    if before is not None:
        file.write_bytes(before)
    return found


def compare(bench: Bench, sets: dict[str, str], steps: int, winner: Path) -> list[dict[str, Any]]:
    """Preset and winner over training seeds that no search has used, as many at a time as a search
    trains. The preset gets more steps where the winner's cost more, so that it never trains for
    less time; where all trainings share settings, the preset without them is compared too."""
    base = ("preset=weizmann", f"data.manifest={sets['data']}")
    presets = {"preset": (*base, *bench.args.words)} | ({"plain": base} if bench.args.words else {})

    def one(seed: int) -> dict[str, Any]:
        def train(name: str, steps: int, *words: str) -> dict[str, Any]:
            found = trained(bench, name, *words, f"seed={seed}", f"train.steps={steps}")
            return {"run": name, **{key: found[key] for key in ("steps", "seconds", "psnr")}}

        row: dict[str, Any] = {"seed": seed}
        row["best"] = train(f"best-{seed}", steps, "--config", str(winner))
        for kind, words in presets.items():
            row[kind] = train(f"{kind}-{seed}", steps, *words)
            ratio = row["best"]["seconds"] / row[kind]["seconds"]
            if ratio > 1.02:
                more = round(1.02 * ratio * steps)
                row[kind] = train(f"{kind}-{seed}-{more}", more, *words)
        return row

    with ThreadPoolExecutor(bench.cores) as pool:
        rows = list(pool.map(one, range(100, 100 + bench.args.seeds)))
    for row in rows:  # judged at last, since that takes all cores
        for kind in ("best", *presets):
            run = bench.out / "runs" / row[kind]["run"]
            row[kind]["test"] = judged(bench, run, sets["test"])
            row[kind]["validation"] = judged(bench, run, None)
    return rows


def kills(bench: Bench, data: str) -> list[dict[str, Any]]:
    """Kill a search again and again; each kill is kept as soon as it is settled."""
    study = bench.out / "kills"
    line = [sys.executable, "-m", *search_line(
        bench, data, study, "--cpu-hours", "100", "--steps", "1000000", "--max-concurrent", "1",
        "networks.channels=16", "checkpoint.minutes=0.1", "train.log_steps=2",
    )]  # fmt: skip
    return [
        bench.once(f"kill-{number}", lambda number=number: kill_once(
            line, study, number=number, log=bench.out / "log")._asdict())
        for number in range(bench.args.kills)
    ]  # fmt: skip


def run(bench: Bench) -> dict[str, Any]:
    """All stages in order."""
    args, estimate = bench.args, costs(bench.args, bench.cores)
    sets = bench.once("prepare", lambda: prepare(bench))
    steps = bench.once("calibrate", lambda: args.steps or calibrate(bench, sets["data"]))
    killed = kills(bench, sets["data"])
    overhead = bench.once("overhead", lambda: searched(
        bench, sets["data"], bench.out / "overhead", "--cpu-hours", "100", "--steps", str(steps),
        "--searcher", "random", "--trials", str(TRIALS_OF_OVERHEAD),
    ))  # fmt: skip
    each = estimate["studies"] / (len(SEARCHERS) * args.seeds) - START_SECONDS
    hours = bench.once("cpu_hours", lambda: round(each * bench.cores / 3600, 4))
    studies = {}
    for seed in range(args.seeds):
        for searcher in SEARCHERS:
            name = f"{searcher}-{seed}"
            found = bench.once(name, lambda name=name, searcher=searcher, seed=seed: searched(
                bench, sets["data"], bench.out / name, "--cpu-hours", str(hours), "--steps",
                str(steps), "--searcher", searcher, "--seed", str(seed), "--objective",
                args.objective, *bench.weights,
            ))  # fmt: skip
            run = folder_of(bench.out / name, found["best"] or "none")
            test = bench.once(f"{name}-test", lambda run=run: judged(bench, run, sets["test"]))
            studies[name] = {**found, "test": test}
    # Studies train with seeds of their own: compared is what each gained over what it was given.
    sign = 1 if OBJECTIVES[args.objective].direction == "maximize" else -1
    gains = {name: sign * (s["scores"][args.objective] - s["given"])
             for name, s in studies.items()
             if name.startswith(SEARCHERS[0]) and s["given"] is not None}  # fmt: skip
    if not gains:
        raise SystemExit("in no study the first trial was finished: nothing to compare with")
    winner = max(gains, key=lambda name: gains[name])
    rows = bench.once("compare", lambda: compare(
        bench, sets, steps, bench.out / winner / "best.yaml"))  # fmt: skip
    return {
        "words": args.words, "objective": args.objective, "steps": steps, "cpu_hours": hours,
        "kills": killed, "overhead": overhead, "studies": studies, "winner": winner,
        "ledger_intervals": [(k["charged"] - k["held"]) / INTERVAL for k in killed],
        "compare": rows,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="settings of every training")
    parser.add_argument("--footage", type=Path, required=True, help="folder weizmann_strips")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vgg", type=Path, required=True, help="VGG16 weights, for MCS")
    parser.add_argument("--objective", choices=JUDGED, default=JUDGED[0])
    parser.add_argument("--minutes", type=float, default=110.0, help="of everything (110)")
    parser.add_argument("--trial-seconds", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=0, help="of a trial; default: as they fit")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the study into this page")
    args = parser.parse_intermixed_args(argv)
    bench = Bench(args)
    told = costs(args, bench.cores)
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in told.items())
    print(f"{sum(told.values()) / 60:.0f} minutes on {bench.cores} cores: {parts}", flush=True)
    if told["studies"] < 2 * args.seeds * (START_SECONDS + args.trial_seconds):
        raise SystemExit(f"--minutes: {args.minutes:g} leave no time for {2 * args.seeds} studies")
    found = run(bench)
    print(as_text(found))
    if args.write:
        write_page(args.write, found)
    print(json.dumps({"bench": "tuning", **describe(), **found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
