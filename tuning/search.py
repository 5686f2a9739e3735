"""Search for the configuration that does best under a budget of accelerator-hours.

    python tuning/search.py --manifest data/mine --cpu-hours 0.5
    python tuning/search.py --manifest data/mine --gpu-hours 20 --gpus-per-trial 1

The same command again goes on where it was; with a larger budget it goes on with what is added.
Words `a.b=c` fix settings of all trials. Writes OUT/{trials.csv, best.yaml, report.html}, also
where it is stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_shards.disk import DISK_ERRORS
from data_shards.errors import UserError
from tuning.guard import RayLost

if TYPE_CHECKING:
    from tuning.records import Record
    from tuning.report import Written

SEARCHERS = ("optuna", "bohb", "random", "grid", "pb2")
SCHEDULERS = ("asha", "hyperband", "none")
HOUR = 3600.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="tuning/search.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("words", nargs="*", metavar="setting=value", help="settings of all trials")
    add("--manifest", metavar="DIR", required=True, help="what data_shards.prepare wrote")
    budget = made.add_mutually_exclusive_group(required=True)
    budget.add_argument("--cpu-hours", type=float, help="budget: hours of one core")
    budget.add_argument("--gpu-hours", type=float, help="budget: hours of one GPU")
    add("--gpus-per-trial", type=float, help="fractions too (default: 1 with --gpu-hours)")
    add("--cpus-per-trial", type=float, default=1, help="cores of a trial (default: 1)")
    add("--workers", type=int, default=0, help="processes of a trial (default: one per GPU)")
    add("--steps", type=int, default=400, help="length of a whole trial (default: 400)")
    add("--trial-cap", type=float, default=0, metavar="SECONDS", help="accelerator-seconds "
        "after which a trial is asked to leave, and cannot win (default: no cap)")  # fmt: skip
    add("--space", metavar="FILE", help="YAML of ranges (default: priors around Tab. 6)")
    add("--rates", action="store_true", help="search learning rates too, not beside --space")
    add("--total", type=int, help="keep D_s + D_t at this sum (default: both are free)")
    add("--searcher", choices=SEARCHERS, default="optuna", help="default: optuna (TPE)")
    add("--population", type=int, default=4, help="members of a population, for pb2 (default: 4)")
    add("--scheduler", choices=SCHEDULERS, help="default: asha; hyperband with bohb; none "
        "with any objective but psnr, and with pb2")  # fmt: skip
    add("--objective", nargs="+", default=["psnr"], help="psnr mcs fcs exchange "
        "unseen unseen-mcs unseen-fcs bytes; several: the Pareto front")  # fmt: skip
    add("--max-concurrent", type=int, default=0, help="trials at a time (default: what fits)")
    add("--trials", type=int, default=0, help="at most so many (default: what the budget bears)")
    add("--interval", type=float, default=5.0, help="seconds between heartbeats (default: 5)")
    add("--seed", type=int, default=0, help="of the trainings and of the search")
    add("--vgg", metavar="FILE", default="", help="VGG16 weights, for mcs and "
        "unseen-mcs (or $NAVSYNTH_VGG16)")  # fmt: skip
    add("--address", default="", help="a running Ray cluster (default: a local Ray)")
    add("--targets", metavar="DIR", default="", help="folder in which Prometheus finds the running "
        "trials")  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="folder of the study (default: studies/NAME, the "
        "footage's)")  # fmt: skip
    return made


def study_of(manifest: str) -> Path:
    """Where the study of some footage lies unless it is said: by the name of its folder."""
    folder = manifest.removesuffix("manifest.json").rstrip("/")
    name = folder.rpartition("/")[2] if "://" in folder else Path(folder).resolve().name
    return Path("studies") / (name or "study")


@contextmanager
def only_driver(study: Path) -> Iterator[None]:
    """Hold the study for this process.

    Raises:
        UserError: another search runs in this folder, or it cannot be written.
    """
    try:
        study.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(study / "study.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"--out: {study}: {error.strerror}") from None
    try:
        try:
            # Not flock, which a child would go on holding that was being started as this died.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"--out: {study}: another search runs there; choose another") from None
        yield
    finally:
        os.close(descriptor)


def run(args: argparse.Namespace) -> int:
    """Check everything, search, write down what was found.

    Raises:
        UserError: one line.
        OSError: a disk refuses; what trials have left is kept, and the same command goes on.
    """
    from tuning.engine import clear_up, import_ray, search
    from tuning.live import Live
    from tuning.plan import plan
    from tuning.records import require_same

    planned = plan(args)
    import_ray(local=not args.address)
    study = args.out.resolve()
    with only_driver(study):
        require_same(study, planned.settings)
        ended = clear_up(study)
        if ended:
            print(f"ended what a dead search had left: {', '.join(ended)}", flush=True)
        try:
            with Live(study, planned.settings) as live:
                gave_up = search(study, planned, on_change=live.change)
        except (KeyboardInterrupt, RayLost):
            write_what_there_is(study)
            raise
        return conclude(study, gave_up=gave_up)


def write_what_there_is(study: Path) -> None:
    """Write trials.csv, best.yaml and report.html of a search that ends before its end, if it has
    begun."""
    from tuning.records import STUDY
    from tuning.report import REPORT

    # Whoever asked it to end may not wait long for sheets.
    if (study / STUDY).exists() and written(study, sheets=False) is not None:
        print(f"what there is: {study / REPORT}", flush=True)


def written(study: Path, *, sheets: bool) -> Written | None:
    """What trials.csv, best.yaml and report.html hold, written down. What keeps them from being
    written is told, and does not hide how the search ends: None."""
    from tuning.report import write_down

    try:
        return write_down(study, sheets=sheets)
    except (UserError, OSError) as error:
        print(f"error: not written down: {in_a_line(error, study)}", file=sys.stderr)
        return None


def in_a_line(error: UserError | OSError, study: Path) -> str:
    """An error in one line; a disk's with the file, or the study where it names none, and what
    helps."""
    if isinstance(error, UserError):
        return str(error)
    what = f"{error.filename2 or error.filename or study}: {error.strerror or error}"
    return (
        f"{what}; {DISK_ERRORS.get(error.errno or 0, 'mend that')} and run the same command again"
    )


def refusal_of(error: Exception) -> OSError | None:
    """The refusal of a disk that an error is, or that it stands for: what is raised inside Ray's
    loop comes out as an error of Ray's own, with it as context. None: any other error."""
    # By its name: Ray may not be there.
    cause = error.__context__ if type(error).__name__ == "TuneError" else error
    return cause if isinstance(cause, OSError) and cause.errno in DISK_ERRORS else None


def conclude(study: Path, *, gave_up: str = "") -> int:
    """Write trials.csv, best.yaml and report.html, and say what was found.

    Args:
        gave_up: why the search did not go on to its end; empty where it did.

    Returns:
        The exit code: 1 without a winner, or where the search gave up; 2 where it could not be
        written down.
    """
    from tuning.report import REPORT

    found = written(study, sheets=True)
    if found is not None:
        spent, budget = found.account.spent, found.account.budget
        print(f"{len(found.records)} trials, {spent:.0f} of {budget:.0f} accelerator-seconds")
        print(f"{study / 'trials.csv'}\n{study / REPORT}")
    if gave_up:
        print(f"error: {gave_up}", file=sys.stderr)
    if found is None:
        return 2
    settings, records, _, winner = found
    if winner is None:
        if not gave_up:
            print(without_winner(records))
        return 1
    scores = ", ".join(f"{name} {winner.scores[name]:.4g}" for name in settings.objectives)
    print(f"best: {winner.id}, {scores}\nnext: accelerate launch --config_file "
          f"accelerate_config.yaml --num_processes {settings.workers} trainer/main.py --config "
          f"{study / 'best.yaml'}")  # fmt: skip
    return int(bool(gave_up))


def without_winner(records: Sequence[Record]) -> str:
    """Why no trial has finished, in a line, and what helps."""
    from tuning.records import UNFINISHED

    if not records or any(record.status in UNFINISHED for record in records):
        return "no trial has finished; give a larger budget and run the same again"
    reasons = Counter(record.reason for record in records if record.reason)
    if not reasons:
        return "no trial has finished"
    reason, count = reasons.most_common(1)[0]
    return f"no trial has finished: {count} of {len(records)}: {reason}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 no trial finished or too many failed in a row, 2 bad input or a disk
    that refuses, 130 stopped (Ctrl-C, SIGTERM)."""
    args = parser().parse_intermixed_args(argv)
    args.out = args.out or study_of(args.manifest)
    try:
        return run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RayLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # Ray's own farewell aborts without its raylet
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        print(f"error: {in_a_line(refused, args.out)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
