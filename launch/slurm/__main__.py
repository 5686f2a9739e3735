"""Run: python -m launch.slurm submit|status|logs|cancel|resume; see docs/slurm.md.

submit preset=golf data.manifest=data/golf schedule.clips=512 --nodes 4 --gpus-per-node 8
status                    every run under runs/ that has a job
logs runs/golf --follow
cancel runs/golf          saves, then leaves the cluster
resume runs/golf          goes on where it was
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from data_shards.ending import ended
from data_shards.errors import UserError
from launch.slurm.script import JobConfig, option
from trainer import settings

RUNS = Path("runs")


@ended
def main(argv: list[str] | None = None) -> int:
    """Entry point; 2 for a mistake, told in one line."""
    given = sys.argv[1:] if argv is None else argv
    try:
        if given[:1] == ["begin"]:  # its words are those of trainer.main, options included
            from launch.slurm.inside import begin

            print(begin(given[1:]))
            return 0
        args, words = parser().parse_known_args(given)
        if words and args.action is not _submit:
            raise UserError(f"{words[0]}: not understood; see --help")
        return args.action(args, words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="launch.slurm", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = made.add_subparsers(required=True, metavar="ACTION")
    sub = actions.add_parser("submit", help="check a run and hand it in", allow_abbrev=False)
    sub.set_defaults(action=_submit)
    sub.add_argument("--dry-run", action="store_true", help="print the script and leave")
    sub.add_argument("--array", type=Path, metavar="FILE", help="a job for each line of settings")
    sub.add_argument("--metrics-port", type=int, metavar="PORT", help="let Prometheus in here")
    for field in settings.fields_of(JobConfig):
        _add_option(sub, field)
    for name, action, text in ACTIONS:
        sub = actions.add_parser(name, help=text, allow_abbrev=False)
        sub.set_defaults(action=action)
        sub.add_argument("runs", type=Path, nargs="*" if name == "status" else 1, metavar="RUN")
        for flag, about in FLAGS.get(name, ()):
            sub.add_argument(flag, action="store_true", help=about)
        if name == "verdict":
            sub.add_argument("--since", type=int, required=True)
            sub.add_argument("--retries", type=int, required=True)
    return made


def _add_option(sub: argparse.ArgumentParser, field: settings.Field) -> None:
    more: dict[str, Any] = {"type": type(field.default), "default": field.default}
    if isinstance(field.default, tuple):
        more = {"action": "append", "default": []}
    sub.add_argument(f"--{option(field.path)}", help=field.doc.replace("%", "%%"), **more)


def _submit(args: argparse.Namespace, words: list[str]) -> int:
    from launch.slurm.submit import prepare, submit

    given: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(JobConfig)
        for value in [getattr(args, field.name)]
    }
    job = JobConfig(**given)
    if args.metrics_port:
        where = f"telemetry.targets={RUNS / 'targets'}/"
        words = [where, "telemetry.address=0.0.0.0", f"telemetry.port={args.metrics_port}", *words]
    prepared = prepare(job, words, sweep=args.array)
    for warning in prepared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.dry_run:
        print(prepared.script, end="")
        return 0
    number = submit(prepared)
    many = f"{len(prepared.folders)} runs" if args.array else str(prepared.folders[0])
    print(f"{many}: job {number}; script and logs in {prepared.home}")
    return 0


def _status(args: argparse.Namespace, _: list[str]) -> int:
    from launch.slurm.submit import status

    runs = args.runs or sorted(p.parent.parent for p in RUNS.glob("*/slurm/job.json"))
    if not runs:
        raise UserError(f"{RUNS}: no run with a SLURM job; name the run folder")
    print("\n".join(status(runs)))
    return 0


def _logs(args: argparse.Namespace, _: list[str]) -> int:
    from launch.slurm.submit import logs

    return logs(args.runs[0], follow=args.follow)


def _cancel(args: argparse.Namespace, _: list[str]) -> int:
    from launch.slurm.submit import cancel

    print(cancel(args.runs[0], now=args.now))
    return 0


def _resume(args: argparse.Namespace, _: list[str]) -> int:
    from launch.slurm.submit import resume

    print(f"{args.runs[0]}: job {resume(args.runs[0])}")
    return 0


def _verdict(args: argparse.Namespace, _: list[str]) -> int:
    from launch.slurm.inside import verdict

    print(verdict(args.runs[0], since=args.since, retries=args.retries))
    return 0


ACTIONS = (
    ("status", _status, "what SLURM and the runs say"),
    ("logs", _logs, "what a run printed"),
    ("cancel", _cancel, "save and leave the cluster"),
    ("resume", _resume, "hand a run in again"),
    ("verdict", _verdict, "for the batch script: how a run ended, and whether it comes again"),
)
FLAGS = {
    "logs": [("--follow", "stay, and show what comes")],
    "cancel": [("--now", "by scancel: the cluster's KillWait is all the time there is")],
}

if __name__ == "__main__":
    raise SystemExit(main())
