"""What a person sees while a run trains: a bar in a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import NamedTuple

from trainer.journal import plain

STYLES = ("auto", "bar", "lines", "json", "none")


class Shown(NamedTuple):
    """What is shown of a logged step."""

    step: int
    values: Mapping[str, float]
    clips_per_second: float
    done: float
    """Share of the run, 0 to 1."""
    eta: float | None
    """Seconds; None: not known yet."""

    def numbers(self) -> str:
        """Loss terms, PSNR and speed in one line."""
        values = self.values.items()
        losses = [f"{name[5:]} {v:.4f}" for name, v in values if name.startswith("loss/")]
        psnr = [f"psnr {self.values['psnr']:.2f} dB"] if "psnr" in self.values else []
        return "  ".join([*losses, *psnr, f"{self.clips_per_second:.1f} clips/s"])

    def clock(self) -> str:
        """Time left as h:mm:ss."""
        if self.eta is None:
            return "-:--:--"
        whole = int(self.eta)
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def open_screen(style: str) -> Lines:
    """The display of one of `STYLES`; warnings of the logger `navsynth` go through it too."""
    if style == "auto":
        style = "bar" if sys.stderr.isatty() else "lines"
    return {"bar": Bar, "lines": Lines, "json": JsonLines, "none": Off}[style]()


class Lines:
    """One plain line a logged step, on stderr."""

    def __init__(self) -> None:
        self._handler = _Through(self)
        logging.getLogger("navsynth").addHandler(self._handler)

    def step(self, shown: Shown) -> None:
        """Show a logged step."""
        self.say(f"step {shown.step}  {shown.done:4.0%}  {shown.numbers()}  eta {shown.clock()}")

    def say(self, text: str) -> None:
        """Show a line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal and the logger as they were."""
        logging.getLogger("navsynth").removeHandler(self._handler)


class JsonLines(Lines):
    """One JSON object a line, on stderr."""

    def step(self, shown: Shown) -> None:
        """Show a logged step."""
        self._emit({**shown.values, **shown._replace(values={})._asdict()})

    def say(self, text: str) -> None:
        """Show a line."""
        self._emit({"message": text})

    def _emit(self, value: Mapping[str, object]) -> None:
        value = {name: item for name, item in value.items() if name != "values"}
        print(json.dumps(plain(value)), file=sys.stderr, flush=True)


class Off(Lines):
    """Warnings only."""

    def step(self, shown: Shown) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show warnings and errors only."""
        if text.startswith(("warning:", "error:")):
            super().say(text)


class Bar(Lines):
    """A live progress bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f}%  {task.fields[numbers]}"),
            TextColumn("eta {task.fields[eta]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=1.0, step=0, numbers="", eta="-:--:--")
        self._progress.start()
        super().__init__()

    def step(self, shown: Shown) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            completed=shown.done,
            step=shown.step,
            numbers=shown.numbers(),
            eta=shown.clock(),
        )

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        super().close()
        self._progress.stop()


class _Through(logging.Handler):
    def __init__(self, screen: Lines) -> None:
        super().__init__(logging.INFO)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.say(f"{record.levelname.lower()}: {self.format(record)}")
