"""What a person sees while a run trains: a bar in a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Protocol

STYLES = ("auto", "bar", "lines", "json", "none")


class Screen(Protocol):
    """Shows progress on stderr."""

    def step(
        self,
        step: int,
        terms: Mapping[str, float],
        psnr: float,
        clips_per_second: float,
        ratio: float,
        eta: float | None,
    ) -> None:
        """Show a logged step."""
        ...

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def open_screen(style: str) -> Screen:
    """The display of one of `STYLES`; warnings of the logger `navsynth` go through it too."""
    if style == "auto":
        style = "bar" if sys.stderr.isatty() else "lines"
    screen = {"bar": _Bar, "lines": _Lines, "json": _Json, "none": _Off}[style]()
    return screen


def summary(terms: Mapping[str, float], psnr: float, clips_per_second: float) -> str:
    """The numbers of a step in one line."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
    return f"{losses}  psnr {psnr:.2f} dB  {clips_per_second:.1f} clips/s"


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss."""
    if seconds is None:
        return "-:--:--"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class _Lines:
    def __init__(self) -> None:
        self._handler = _handler(self)

    def step(self, step, terms, psnr, clips_per_second, ratio, eta) -> None:  # type: ignore[no-untyped-def]
        numbers = summary(terms, psnr, clips_per_second)
        self.say(f"step {step}  {ratio:4.0%}  {numbers}  eta {clock(eta)}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        logging.getLogger("navsynth").removeHandler(self._handler)


class _Json(_Lines):
    def step(self, step, terms, psnr, clips_per_second, ratio, eta) -> None:  # type: ignore[no-untyped-def]
        numbers = {"loss": dict(terms), "psnr": psnr, "clips_per_second": clips_per_second}
        self._emit({"step": step, **numbers, "progress": ratio, "eta_seconds": eta})

    def say(self, text: str) -> None:
        self._emit({"message": text})

    def _emit(self, value: Mapping[str, object]) -> None:
        print(json.dumps(value), file=sys.stderr, flush=True)


class _Off(_Lines):
    def step(self, step, terms, psnr, clips_per_second, ratio, eta) -> None:  # type: ignore[no-untyped-def]
        return

    def say(self, text: str) -> None:
        return


class _Bar(_Lines):
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
        self._task = self._progress.add_task("", total=1.0, step=0, numbers="", eta=clock(None))
        self._progress.start()
        super().__init__()

    def step(self, step, terms, psnr, clips_per_second, ratio, eta) -> None:  # type: ignore[no-untyped-def]
        self._progress.update(
            self._task,
            completed=ratio,
            step=step,
            numbers=summary(terms, psnr, clips_per_second),
            eta=clock(eta),
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        super().close()
        self._progress.stop()


class _Through(logging.Handler):
    def __init__(self, screen: _Lines) -> None:
        super().__init__(logging.INFO)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.say(f"{record.levelname.lower()}: {self.format(record)}")


def _handler(screen: _Lines) -> logging.Handler:
    handler = _Through(screen)
    logging.getLogger("navsynth").addHandler(handler)
    return handler
