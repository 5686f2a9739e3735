"""What a search leaves at any moment: a table, a file to train with, and a page."""

from __future__ import annotations

import csv
import html
import os
import re
from pathlib import Path

import pytest
import torch

from trainer.config import resolve
from trainer.settings import to_yaml
from tuning.ledger import Ledger
from tuning.records import (
    DONE,
    FAILED,
    Record,
    Settings,
    folder_of,
    read_records,
    settle_settings,
    write_record,
)
from tuning.report import main, write_sheets
from tuning.space import space_of

SPACE = space_of({"latents.static": {"low": 4, "high": 64}})
SETTINGS = Settings(
    manifest="/set", words=("preset=weizmann",), steps=9, rungs=(), objectives=("psnr",), workers=1,
    cpus=1, gpus=0, interval=1, seed=0, vgg="",
    space={"total": None, "ranges": [item._asdict() for item in SPACE.ranges]},
)  # fmt: skip


def made(study: Path, scores: dict[str, tuple[float, ...]], *names: str) -> None:
    """A study with these scores of finished trials, and one trial that failed."""
    settle_settings(study, SETTINGS._replace(objectives=names))
    Ledger(study).grant(60)
    for trial, figures in scores.items():
        known = dict(zip(names, figures, strict=True))
        values = {"latents.static": 8}
        write_record(study, Record(trial, values, SETTINGS.words, DONE, scores=known))
        text = to_yaml(resolve([*SETTINGS.words, f"name={trial}"]))
        (folder_of(study, trial) / "config.yaml").write_text(text)
    lost = Record("t0009", {"latents.static": 64}, (), FAILED, reason="out of memory", step=3)
    write_record(study, lost)


def test_a_page_shows_each_two_objectives_and_why_trials_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Three objectives are three pictures, trials on the front are marked, reasons are beside the
    trials; the table and the best file are written, too."""
    scores = {"t0000": (20.0, 5.0, 0.1), "t0001": (21.0, 6.0, 0.2), "t0002": (19.0, 6.0, 0.3)}
    made(tmp_path / "mine", scores, "psnr", "bytes", "fcs")
    assert main([str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine' / 'report.html'}\n"
    page = html.unescape((tmp_path / "mine" / "report.html").read_text())
    psnr, size, fcs = "PSNR of the training clips, dB", "bytes per video", "FCS's distance to its"
    for title in (f"{size} against {psnr}", f"{fcs} bound against {psnr}",
                  f"{fcs} bound against {size}"):  # fmt: skip
        assert page.count(f'<p class="muted">{title}</p>') == 1
    assert page.count("<circle") == 3 * len(scores)
    assert "all objectives together: t0001, t0000." in page
    assert page.count("<td>front</td>") == 2
    assert page.count('<td class="reason">out of memory</td>') == 1
    rows = list(csv.DictReader((tmp_path / "mine" / "trials.csv").open()))
    assert [row["pareto"] for row in rows] == ["1", "1", "0", "0"]
    assert (tmp_path / "mine" / "best.yaml").read_text().startswith("# Trial t0001: psnr 21.0")


def test_a_page_of_one_objective_has_no_front(tmp_path: Path) -> None:
    """Neither picture nor column; the reasons stay."""
    made(tmp_path / "mine", {"t0000": (20.0,)}, "psnr")
    assert main([str(tmp_path / "mine")]) == 0
    page = (tmp_path / "mine" / "report.html").read_text()
    assert "Pareto" not in page and "<circle" not in page and "out of memory</td>" in page


def test_a_page_says_which_settings_tell_and_draws_every_value(tmp_path: Path) -> None:
    """Eight finished trials whose score follows the margin alone: it leads the importance, which
    says of how many it is and whose shares are of 1; each setting is an axis with the ends that
    were tried, each trial a line."""
    space = space_of({"latents.static": {"low": 4, "high": 64}, "loss.margin": [0.5, 1.0, 2.0]})
    study = tmp_path / "mine"
    kept = [item._asdict() for item in space.ranges]
    settle_settings(study, SETTINGS._replace(space={"total": None, "ranges": kept}))
    Ledger(study).grant(60)
    for number, (static, margin) in enumerate(
        [(8, 0.5), (60, 2.0), (12, 2.0), (33, 1.0), (20, 0.5), (48, 1.0), (7, 1.0), (61, 0.5)]
    ):
        values, scores = {"latents.static": static, "loss.margin": margin}, {"psnr": 20 + margin}
        record = Record(f"t{number:04d}", values, (), DONE, scores=scores)
        write_record(study, record)
        (folder_of(study, record.id) / "config.yaml").write_text(to_yaml(resolve()))
    assert main([str(study)]) == 0
    page = (study / "report.html").read_text()
    head, importance, *_ = page.split("<h2>Importance of settings</h2>")
    assert "<svg" not in head, "nothing was logged: there are no learning curves"
    importance, parallel = importance.split("<h2>Parallel coordinates</h2>")
    assert "from 8 trials." in importance
    found = re.findall(r"<tr><td>([a-z._]+)</td><td>([\d.]+)</td>", importance)
    assert [name for name, _ in found] == ["loss.margin", "latents.static"]
    assert sum(float(share) for _, share in found) == pytest.approx(1, abs=0.02)
    drawn = parallel.split("<h2>")[0]
    axes = re.findall(r'font-weight="600">(\w+)</text>', drawn)
    assert axes == ["static", "margin"] and drawn.count("<polyline") == 8
    for end in ("7", "61", "0.5", "2"):
        assert f">{end}</text>" in drawn


def test_a_page_of_few_trials_says_what_importance_needs(tmp_path: Path) -> None:
    """Three finished trials tell nothing of settings."""
    made(tmp_path / "mine", {f"t000{n}": (20.0 + n,) for n in range(3)}, "psnr")
    assert main([str(tmp_path / "mine")]) == 0
    assert "Needs four finished trials." in (tmp_path / "mine" / "report.html").read_text()


def test_a_sheet_that_cannot_be_made_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As where a GPU is full: the page comes without that one. Trials of cores are shown on the
    CPU, and those of GPUs on what there is."""
    study, seen = tmp_path / "mine", []

    def sheet(run: Path) -> None:
        seen.append((run.name, os.environ["CUDA_VISIBLE_DEVICES"]))
        if run.name == "t0001":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        (run / "samples").mkdir()
        (run / "samples" / "sheet.png").write_bytes(b"a picture")

    made(study, {"t0000": (20.0,), "t0001": (21.0,)}, "psnr")
    for trial in ("t0000", "t0001"):
        (folder_of(study, trial) / "checkpoints" / "step-00000009").mkdir(parents=True)
    monkeypatch.setattr("trainer.run.open_run", lambda folder: folder)
    monkeypatch.setattr("trainer.summary.write_sheet", sheet)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert main([str(study)]) == 0
    why = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert capsys.readouterr().err == f"warning: no samples of t0001: {why}\n"
    assert (study / "report.html").read_text().count("data:image/png;base64,") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    write_sheets(study, SETTINGS._replace(gpus=1), read_records(study)[1:2])
    assert seen == [("t0001", ""), ("t0000", ""), ("t0001", "0")]


def test_a_folder_that_is_no_study_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Code 2 and one line; nothing is written there."""
    assert main([str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {tmp_path.resolve()}: not a study (no study.json)\n"
    assert not list(tmp_path.iterdir())
