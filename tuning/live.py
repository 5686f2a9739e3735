"""What a search shows while it runs: a table in a terminal, a line per event elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.table import Table

from trainer.journal import last_step
from tuning.ledger import Ledger
from tuning.outcome import ranked
from tuning.records import RUNNING, Record, Settings, folder_of, read_records

MOST_ROWS = 16


class Live:
    """Shows the study's trials between `with Live(...)` and its end."""

    def __init__(self, study: Path, settings: Settings) -> None:
        self._study, self._settings, self._ledger = study, settings, Ledger(study)
        self._screen: Screen | None = None
        if sys.stdout.isatty():
            self._screen = Screen(console=Console(), refresh_per_second=2, get_renderable=self.page)

    def __getstate__(self) -> dict[str, Any]:
        """Without the terminal, which holds locks: Ray pickles whoever listens to its searcher."""
        return {**self.__dict__, "_screen": None}

    def __enter__(self) -> Live:
        if self._screen:
            self._screen.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._screen:
            self._screen.stop()

    def change(self, record: Record) -> None:
        """Tell of a trial that has moved."""
        if self._screen is None:
            print(line_of(record, self._settings, self._ledger.account().left), flush=True)

    def _step(self, record: Record) -> int:
        """Step of a trial; of one that runs by what it has logged, since it may have no rungs."""
        if record.status != RUNNING:
            return record.step
        logged = last_step(folder_of(self._study, record.id) / "metrics.jsonl")
        return max(record.step, int(logged)) if math.isfinite(logged) else record.step

    def page(self) -> Group:
        """Trials that run, the best one (bold) and the newest, by number; and the budget."""
        records, account = read_records(self._study), self._ledger.account()
        best = next(iter(ranked(records, self._settings.objectives)), None)
        shown = chosen(records, best)
        table = Table(*("trial", "status", "step", *self._settings.objectives, "values"))
        why = any(record.reason for record in shown)
        if why:
            table.add_column("why")
        for record in shown:
            scores = [_score(record, name) for name in self._settings.objectives]
            values = " ".join(
                f"{k.rpartition('.')[2]}={_short(v)}" for k, v in record.values.items()
            )
            style = "bold" if best and record.id == best.id else None
            table.add_row(
                record.id, record.status, str(self._step(record)), *scores, values,
                *([record.reason] if why else []), style=style,
            )  # fmt: skip
        bar = ProgressBar(total=account.budget or 1, completed=account.spent, width=50)
        # The bar ends without a line's end: this stands beside it.
        left = f" {account.spent:.0f} of {account.budget:.0f} accelerator-seconds"
        return Group(table, bar, left)


def chosen(records: Sequence[Record], best: Record | None) -> list[Record]:
    """Those that are shown, by number: all that run, the best, and then the newest."""
    first = [record for record in records if record.status == RUNNING]
    first += [best] if best else []
    names = dict.fromkeys(record.id for record in (*first, *reversed(records)))
    most = set(list(names)[: max(MOST_ROWS, len(first))])
    return [record for record in records if record.id in most]


def line_of(record: Record, settings: Settings, left: float) -> str:
    """One event as a plain line."""
    scores = "  ".join(f"{n} {record.scores[n]:.4g}" for n in settings.objectives if record.scores)
    rung = f"psnr {record.rungs[-1][1]:.2f}" if record.rungs and not scores else ""
    parts = [record.id, record.status, f"step {record.step}", scores or rung, record.reason]
    return "  ".join(filter(None, [*parts, f"{left:.0f} accelerator-seconds left"]))


def _score(record: Record, name: str) -> str:
    if name in record.scores:
        return f"{record.scores[name]:.4g}"
    return f"({record.rungs[-1][1]:.2f})" if name == "psnr" and record.rungs else ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
