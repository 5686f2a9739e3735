"""A live view of a run in the terminal, from its files: python -m launch.top RUN [--once]

The run may be on another machine, as long as its folder can be read. Leave with Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data_shards.errors import UserError
from launch.charts import duration, number, points_of, thin
from launch.report import phases, when
from launch.runs import RunRecord, events, read_run

BLOCKS = "▁▂▃▄▅▆▇█"
CURVES = (("PSNR, dB", "psnr"), ("loss", "loss/total"), ("clips/s", "clips_per_second"))
COLOURS = {"running": "cyan", "done": "green", "silent": "yellow", "preempted": "yellow"}


def view(run: RunRecord, *, width: int = 80) -> RenderableType:
    """One look at a run: state, progress, curves, time by phase, the latest events."""
    parts: list[RenderableType] = [_head(run)]
    left = remaining(run)
    if left is not None:
        done, seconds = left
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=1)
        line.add_column(justify="right")
        note = f"{100 * done:.0f} %, {duration(seconds)} left"
        line.add_row(ProgressBar(total=1.0, completed=done), note)
        parts.append(line)
    if run.metrics:
        parts += [_curves(run, max(10, width - 44)), _phases(run)]
    else:
        parts.append(Text("no metrics have been written yet", style="dim"))
    latest = events(run)[-4:]
    if latest:
        parts.append(_events(latest))
    return Panel(Group(*parts), title=Text(run.name), border_style="dim")


def _head(run: RunRecord) -> Text:
    last = run.metrics[-1] if run.metrics else {}
    status = run.status
    line = Text(f" {status} ", style=f"bold {COLOURS.get(status, 'red')} reverse")
    line.append(f"  step {last.get('step', 0):,}   {duration(last.get('seconds'))}   ")
    line.append(f"PSNR {number(run.last('psnr'))} dB", style="bold")
    if run.age_seconds is not None:
        line.append(f"   last sign of life {duration(run.age_seconds)} ago", style="dim")
    return line


def _curves(run: RunRecord, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, column in CURVES:
        points = points_of(run, column)
        if points:
            values = [y for _, y in points]
            table.add_row(
                Text(label, style="dim"),
                Text(sparkline(values, width=width), style="cyan"),
                Text(number(values[-1]), style="bold"),
                Text(f"{number(min(values))} to {number(max(values))}", style="dim"),
            )
    return table


def _phases(run: RunRecord) -> Table:
    table = Table.grid(padding=(0, 2))
    for phase in phases(run)[:7]:
        bar = "█" * max(1, round(phase.share / 4))
        figures = f"{1000 * phase.seconds:.1f} ms  {phase.share:.0f} %"
        table.add_row(Text(phase.name, style="dim"), Text(bar, style="blue"), figures)
    return table


def _events(latest: Sequence[dict]) -> Table:
    table = Table.grid(padding=(0, 2))
    for event in latest:
        text = f"{event['kind']}: {event['text']}"
        table.add_row(Text(when(event["time"]), style="dim"), Text(text, overflow="ellipsis"))
    return table


def sparkline(values: Sequence[float], *, width: int) -> str:
    """Values as a line of block characters, at most `width` wide."""
    shown = [y for _, y in thin(list(enumerate(values)), max(2, width))]
    low, high = min(shown), max(shown)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((y - low) * scale)] for y in shown)


def remaining(run: RunRecord) -> tuple[float, float] | None:
    """Share done and seconds left of a running training, by its limit of minutes or of steps, which
    `run.json` knows where settings give passes."""
    if run.status != "running" or not run.metrics:
        return None
    last, starts = run.metrics[-1], run.info.get("starts") or [{}]
    goals = [
        (run.config.get("train.steps") or starts[-1].get("steps"), last["step"]),
        (60 * (run.config.get("train.minutes") or 0), last.get("seconds", 0.0)),
    ]
    shares = [min(1.0, now / goal) for goal, now in goals if goal]
    done = max(shares, default=0.0)
    return (done, last.get("seconds", 0.0) * (1 - done) / done) if done > 0 else None


def main(argv: list[str] | None = None) -> int:
    """Watch a run until Ctrl-C; `--once` prints one look. 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m launch.top", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--once", action="store_true", help="print one look and leave")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks")
    options = parser.parse_args(argv)
    console = Console()
    try:
        if options.once or not console.is_terminal:
            console.print(view(read_run(options.run), width=console.width))
        else:
            _watch(options.run, console, every=max(0.2, options.every))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _watch(folder: Path, console: Console, *, every: float) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(read_run(folder), width=console.width), refresh=True)
            time.sleep(every)


if __name__ == "__main__":
    sys.exit(main())
