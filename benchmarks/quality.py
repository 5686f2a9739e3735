"""PSNR after minutes of training on real footage, `fast` beside the paper's `joint` schedule.

Run: NAVSYNTH_FOOTAGE=DIR make bench-quality [ARGS="--minutes 10 --reference-minutes 10 --out DIR"]
Writes quality.md, quality.png and the runs (with sheets) under --out; ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import line

ROOT = Path(__file__).resolve().parent.parent


class Case(NamedTuple):
    """One data set: how it is prepared, its preset, and the PSNR it has to reach."""

    prepare: tuple[str, ...]
    preset: str
    floor: float


CASES = {
    "weizmann": Case(
        ("strips", "--root", "weizmann_strips", "--labels", "folders"), "weizmann", 34
    ),
    "chairs": Case(
        ("chair_cad", "--root", "rendered_chairs", "--limit", "12", "--elevation", "20",
         "--crop", "160"), "chair_cad", 30,
    ),
}  # fmt: skip
SAMPLES = 12
"""Points of a curve."""
PER_VIDEO = ("latents.static_key=video", "latents.transient_key=video")


def prepare(name: str, footage: Path, out: Path) -> Path:
    """Prepare a case's footage once; returns its folder."""
    words = list(CASES[name].prepare)
    words[2] = str(footage / words[2])
    folder = out / "data" / name
    subprocess.run(
        [sys.executable, "-m", "data_shards.prepare", *words, "--out", str(folder)],
        check=True,
    )  # fmt: skip
    return folder


def train(name: str, data: Path, out: Path, *, label: str, minutes: float, words: tuple) -> Path:
    """Train one model; returns its run folder."""
    preset = CASES[name].preset
    command = [
        sys.executable, str(ROOT / "trainer" / "main.py"), f"preset={preset}",
        f"data.manifest={data}", f"name={name}-{label}", f"train.minutes={minutes}", *PER_VIDEO,
        f"train.sample_minutes={minutes / SAMPLES}", *words,
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=out)
    return out / "runs" / f"{name}-{label}"


def result(run: Path, *, seconds: float) -> dict[str, object]:
    """What a run reached: PSNR over all training videos at the end, over some on the way there."""
    summary = json.loads((run / "run.json").read_text())
    samples = [event for event in summary["events"] if event["kind"] == "sample"]
    return {
        "psnr": summary["final"]["psnr"],
        "steps": summary["step"],
        "wall_seconds": round(seconds, 1),
        "curve": [
            *((event["seconds"], event["psnr_sample"]) for event in samples),
            (summary["final"]["seconds"], summary["final"]["psnr"]),
        ],
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 1 where a floor is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--reference-minutes", type=float, default=10, help="0: no reference")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-quality"))
    parser.add_argument("words", nargs="*", metavar="setting=value", help="for the `fast` runs")
    args = parser.parse_intermixed_args(argv)
    footage = os.environ.get("NAVSYNTH_FOOTAGE")
    if not footage:
        print("NAVSYNTH_FOOTAGE: set it to the folder of real footage", file=sys.stderr)
        return 2
    names = args.cases.split(",")
    total = len(names) * (args.minutes + args.reference_minutes + 0.5)
    print(f"bench-quality: about {total:.0f} minutes", flush=True)
    stamp = time.strftime("%H%M%S")
    out = args.out.resolve() / stamp
    out.mkdir(parents=True)
    figures: dict[str, dict] = {}
    for name in names:
        data = prepare(name, Path(footage), out)
        plans = [("fast", args.minutes, tuple(args.words))]
        if args.reference_minutes:
            reference = (f"preset={CASES[name].preset}_paper", "schedule.kind=joint")
            plans.append(("joint", args.reference_minutes, reference))
        for label, minutes, words in plans:
            start = time.perf_counter()
            run = train(name, data, out, label=label, minutes=minutes, words=words)
            figures[f"{name}/{label}"] = result(run, seconds=time.perf_counter() - start)
    write_table(figures, out)
    missed = [n for n in names if figures[f"{n}/fast"]["psnr"] < CASES[n].floor]
    short = {key: {k: v for k, v in f.items() if k != "curve"} for key, f in figures.items()}
    print(line("quality", figures=short, missed=missed))
    return int(bool(missed))


def write_table(figures: dict[str, dict], out: Path) -> None:
    """quality.md (table) and quality.png (PSNR against seconds)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    for key, f in figures.items():
        print(key, " ".join(f"{seconds:.0f} s: {psnr:.1f}" for seconds, psnr in f["curve"]))
    lines = ["| run | steps | seconds | PSNR, mean over all training videos |", "|---|---|---|---|"]
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, f in figures.items():
        lines.append(f"| {key} | {f['steps']} | {f['wall_seconds']:.0f} | {f['psnr']:.2f} dB |")
        axes.plot(*zip(*f["curve"], strict=True), marker=".", label=key)
    axes.set(xlabel="seconds", ylabel="PSNR of 8 training videos, dB (last: of all)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "quality.png", dpi=120)
    (out / "quality.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"sheets and curves: {out}")


if __name__ == "__main__":
    raise SystemExit(main())
