"""Scores of cells that were not trained on, of any run, for `benchmarks.tuning`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tuning_bench import Bench
from benchmarks.tuning_figures import DIGITS
from trainer.commit import read_json
from tuning.objectives import FIT_STEPS, OBJECTIVES, UNSEEN, NoFigure

JUDGED = ("unseen-mcs", "unseen-fcs", "unseen", "exchange")
"""What may be the objective of a study."""
OF_CELLS: dict[str, Callable[[dict[str, Any]], float]] = {
    "exchange-fcs": lambda cells: abs(cells["fcs"] - cells["fcs_bound"]),
    "nearest": lambda cells: cells["nearest_psnr"],
}
"""Figures beside an objective, of the recombined cells of an evaluation: means over the cells."""
FIT_SECONDS, SCORE_SECONDS = 26.0, 8.0
"""Of one judgement with latents of four or five videos fitted, on two cores; and of one without."""


def judged(bench: Bench, run: Path, cells: str | None, *, fit: bool) -> dict[str, float | None]:
    """Scores of held-out cells (None: the validation cells); None for one that is not there, as all
    of fitted videos are unless `fit`.

    The run's own evaluation.json is put aside meanwhile, and back by the call that comes through.
    """
    file, kept = run / "evaluation.json", run / "evaluation.kept.json"
    if file.is_file() and not kept.exists():
        file.rename(kept)
    where = ["--held-out", cells] if cells else []
    how = ["--fit", str(FIT_STEPS), *bench.weights] if fit else ["--no-mcs"]
    bench.python("trainer.evaluate", str(run), "--videos", "1", *how, *where)
    found = {name: figure(name, run) for name in DIGITS}
    if kept.exists():
        kept.replace(file)
    return found


def figure(name: str, run: Path) -> float | None:
    """A figure of a run; None where its evaluation has none, or one that is not finite."""
    try:
        if name in OF_CELLS:
            value = float(OF_CELLS[name](read_json(run / "evaluation.json")["held_out"]))
        else:
            value = OBJECTIVES[name].read(run, "")
    except (KeyError, TypeError, NoFigure):
        return None
    return value if math.isfinite(value) else None


def fits(objective: str) -> bool:
    """Whether studies are judged by fitted videos."""
    return objective in UNSEEN


def judge_seconds(*, fit: bool) -> float:
    """What one judgement takes."""
    return FIT_SECONDS if fit else SCORE_SECONDS
