"""What a search is worth, against the preset and against chance, what it costs, what it charges.

Run: make bench-tuning ARGS="--footage DIR/weizmann_strips --vgg FILE --out DIR"
Says first how long it takes, and its page which command made it. Each result is kept in
OUT/state.json: the same command goes on where it was, and `--until STAGE` ends after a stage.
Person i's cell i % 3 is not trained on: those of persons 0 to 3 choose among trials (validation),
those of persons 4 to 8 judge (test). By default MCS counts, of these videos after their latents
were fitted with the networks frozen. Ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from benchmarks.machine import line
from benchmarks.tuning_bench import FREE, Bench
from benchmarks.tuning_judging import JUDGED
from benchmarks.tuning_page import as_text, write_page
from benchmarks.tuning_stages import SEARCHERS, STAGES, START_SECONDS, Found, costs

PLACES = {"footage": "DIR/weizmann_strips", "vgg": "FILE", "out": "DIR"}
"""Options that name a place, and how the page names it."""


def run(bench: Bench) -> Found | None:
    """All stages in order; None where `--until` has ended it before the last."""
    args = bench.args
    found: Found = {
        "words": args.words, "objective": args.objective, "command": command_of(args),
        "space": str(args.space or ""),
    }  # fmt: skip
    for name, stage in STAGES.items():
        found |= stage(bench, found)
        if name == args.until and name != list(STAGES)[-1]:
            return None
    return found


def command_of(args: argparse.Namespace) -> str:
    """The command line that gives these figures again: folders and files by what they are, other
    options where they are not the defaults."""
    line = ["python -m benchmarks.tuning", *(f"--{x} {y}" for x, y in PLACES.items())]
    made = parser()
    for name, value in vars(args).items():
        if name not in (*PLACES, *FREE, "words") and value != made.get_default(name):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            line.append(f"--{name.replace('_', '-')} {text}")
    return " ".join([*line, "--write docs/tuning.md", *map(shlex.quote, args.words)])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = made.add_argument
    add("words", nargs="*", help="settings of every training")
    add("--footage", type=Path, required=True, help="folder weizmann_strips")
    add("--out", type=Path, required=True)
    add("--vgg", type=Path, required=True, help="VGG16 weights, for MCS")
    add("--objective", choices=JUDGED, default=JUDGED[0])
    add("--space", type=Path, metavar="FILE", help="what is searched (default: priors and rates)")
    add("--minutes", type=float, default=110.0, help="of everything (110)")
    add("--trial-seconds", type=float, default=60.0)
    add("--steps", type=int, default=0, help="of a trial; default: as they fit")
    add("--kills", type=int, default=20)
    add("--seeds", type=int, default=3)
    add("--until", choices=STAGES, metavar="STAGE", help=f"end after one of {', '.join(STAGES)}")
    add("--write", type=Path, metavar="FILE", help="put the study into this page")
    return made


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = parser().parse_intermixed_args(argv)
    bench = Bench(args)
    told = costs(args, bench.cores)
    parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in told.items())
    print(f"{sum(told.values()) / 60:.0f} minutes on {bench.cores} cores: {parts}", flush=True)
    count = len(SEARCHERS) * args.seeds
    if told["studies"] < count * (START_SECONDS + args.trial_seconds):
        raise SystemExit(f"--minutes: {args.minutes:g} leave no time for {count} studies")
    found = run(bench)
    if found is None:
        print(f"ended after {args.until}; the same command without --until goes on")
        return 0
    print(as_text(found))
    if args.write:
        write_page(args.write, found)
    print(line("tuning", **found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
