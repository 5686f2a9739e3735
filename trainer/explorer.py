"""A page to explore a dictionary: any content with any motion, pre-rendered; no server.

    python -m trainer.generate RUN explore [--count 8]

One self-contained HTML file. It holds every pair of at most `count` static and `count` transient
rows as film strips, the footage of the pairs that were trained on, the principal plane of both
tables, and the energy of the transient codes by rank.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from trainer import render, spectrum
from trainer.commit import replace_durable

if TYPE_CHECKING:
    from trainer.run import Run

MOST_ROWS = 400
"""Rows of a table, evenly spread, that are looked at for plane and energy."""
QUALITY = 88
"""Of the JPEG film strips."""
TEMPLATE = "explorer.html"


class Views(NamedTuple):
    """What is known of the trained rows of a dictionary, up to `MOST_ROWS` of each table."""

    static_N: np.ndarray
    transient_N: np.ndarray
    static_N2: np.ndarray
    """Principal plane of the static rows."""
    transient_NT2: np.ndarray
    """Of the transient codes: every row is a path of T points."""
    shares: dict[str, tuple[float, float]]
    energy: dict[str, np.ndarray]
    """By rank: `clip`, mean over rows of the T x M matrices, and `dictionary`, all codes as one."""


def views_of(run: Run, *, also: render.TrainedRows | None = None) -> Views:
    """Plane and energy of a run's rows; rows of `also` are among those looked at."""
    trained = render.trained_rows(run)
    chosen = []
    for kind, rows in enumerate(trained):
        few = rows[render.spread(MOST_ROWS, len(rows))]
        chosen.append(np.union1d(few, also[kind]) if also else few)
    static_NS, transient_NTM = codes_of(run, chosen[0], chosen[1])
    rows, frames, width = transient_NTM.shape
    flat = transient_NTM.reshape(rows * frames, width)
    still, moving = spectrum.principal_plane(static_NS), spectrum.principal_plane(flat)
    return Views(
        chosen[0],
        chosen[1],
        still.points_X2.numpy(),
        moving.points_X2.reshape(rows, frames, 2).numpy(),
        {"static": still.shares, "transient": moving.shares},
        {
            "clip": spectrum.energy_by_rank(transient_NTM).numpy(),
            "dictionary": spectrum.energy_by_rank(flat).numpy(),
        },
    )


def codes_of(
    run: Run, static_N: np.ndarray, transient_N: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of rows of both tables: (N, S) and (N', T, M), on the CPU, without the labels that a
    conditional generator is told."""
    first = [torch.as_tensor(rows[:1]) for rows in (static_N, transient_N)]
    still, moving, width = [], [], run.config.latents.static
    for part in torch.as_tensor(static_N).split(render.CLIPS_AT_ONCE):
        still.append(run.latents(part, first[1].expand(len(part)))[0][:, :width].cpu())
    for part in torch.as_tensor(transient_N).split(render.CLIPS_AT_ONCE):
        moving.append(run.latents(first[0].expand(len(part)), part)[1].cpu())
    return torch.cat(still), torch.cat(moving)


def write_explorer(run: Run, path: Path, *, count: int = 8, title: str = "") -> Path:
    """Write the page (atomically): every pair of at most `count` rows of each table."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template(TEMPLATE).render(
        title=title or run.folder.name, data=contents(run, count=count)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durable(path, text.encode())
    return path


def contents(run: Run, *, count: int) -> dict[str, Any]:
    """Everything that the page shows, as JSON values."""
    trained = render.trained_rows(run)
    shown = render.TrainedRows(*(rows[render.spread(count, len(rows))] for rows in trained))
    static, transient = shown
    pairs = np.repeat(static, len(transient)), np.tile(transient, len(static))
    films = [strip_uri(video) for video in render.render(run, *pairs)]
    views = views_of(run, also=shown)
    facts = run.manifest
    return {
        "step": run.step,
        "frames": facts.frames,
        "size": [facts.width, facts.height],
        "kinds": [run.config.latents.static_key, run.config.latents.transient_key],
        "total": [len(trained.static_N), len(trained.transient_N)],
        "static": _names(run, 0, static),
        "transient": _names(run, 1, transient),
        "films": films,
        "footage": footage_of(run, shown),
        "planes": {
            "static": _plane(run, 0, views.static_N, views.static_N2[:, None], static,
                             views.shares["static"]),
            "transient": _plane(run, 1, views.transient_N, views.transient_NT2, transient,
                                views.shares["transient"]),
        },
        "energy": {name: [round(float(x), 5) for x in shares]
                   for name, shares in views.energy.items()},
        "rank90": {name: spectrum.rank_for(torch.as_tensor(shares), 0.9)
                   for name, shares in views.energy.items()},
    }  # fmt: skip


def footage_of(run: Run, shown: render.TrainedRows) -> dict[str, dict[str, str]]:
    """Pairs shown that were trained on, by their number on the page: the video and its footage."""
    videos_N = run.opened.table["video"]  # of training clips alone: those of fitted videos follow
    rows = [np.asarray(row) for row in run.clip_rows(torch.arange(len(videos_N)))]
    found: dict[str, dict[str, str]] = {}
    at = [{int(row): i for i, row in enumerate(table)} for table in shown]
    chosen = np.flatnonzero(np.isin(rows[0], shown.static_N) & np.isin(rows[1], shown.transient_N))
    for clip in run.sound(chosen):
        pair = at[0][int(rows[0][clip])] * len(shown.transient_N) + at[1][int(rows[1][clip])]
        if str(pair) not in found:
            name = run.manifest.videos[int(videos_N[clip])].name
            strip = strip_uri(render.real_clips(run, [clip])[0])
            found[str(pair)] = {"name": name, "film": strip}
    return found


def strip_uri(frames_THWC: np.ndarray) -> str:
    """A video as one JPEG, frames side by side, in a data: address."""
    strip = np.concatenate(list(frames_THWC), axis=1)
    kept = io.BytesIO()
    Image.fromarray(strip).save(kept, format="JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(kept.getvalue()).decode()}"


def _names(run: Run, table: int, rows: Sequence[int] | np.ndarray) -> list[str]:
    return [run.row_name(table, int(row)) for row in rows]


def _plane(
    run: Run, table: int, rows_N: np.ndarray, paths_NX2: np.ndarray, shown: np.ndarray,
    shares: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    at = {int(row): index for index, row in enumerate(shown)}
    return {
        "shares": shares,
        "rows": [
            {
                "name": name,
                "at": at.get(int(row), -1),
                "path": [[round(float(x), 4) for x in point] for point in path],
            }
            for name, row, path in zip(_names(run, table, rows_N), rows_N, paths_NX2, strict=True)
        ],
    }
