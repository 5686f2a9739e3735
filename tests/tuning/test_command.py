"""What a trial's programs are given: threads, and the options of their evaluation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuning import command
from tuning.command import ROOT, environment, evaluation, nursery_for
from tuning.nursery import AVAILABLE
from tuning.objectives import FIT_STEPS
from tuning.records import Settings

SETTINGS = Settings(
    manifest="", words=(), steps=9, rungs=(), objectives=("psnr",), workers=1, cpus=2, gpus=0,
    interval=1, seed=0, vgg="", space={},
)  # fmt: skip
GROWN = """
import torch
def main(argv):
    print(torch.get_num_threads(), "threads,", torch.cuda.device_count(), "GPUs")
    return 0
"""


@pytest.mark.skipif(not AVAILABLE, reason="forking trainings: needs Linux's pidfd")
def test_what_is_forked_computes_with_the_trials_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cores are two threads of torch, though this process says one: torch reads the number
    when it is imported, which is before the fork. Of the GPUs of the machine it sees none."""
    (tmp_path / "grown.py").write_text(GROWN)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(command.ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(command, "MODULES", ("grown",))
    made = nursery_for(SETTINGS)
    assert made is not None
    try:
        child = made.spawn(
            ["-m", "grown"], log=tmp_path / "log", cwd=tmp_path,
            environment=environment(SETTINGS),
        )  # fmt: skip
        assert child.wait() == 0
    finally:
        made.close()
    assert (tmp_path / "log").read_text() == "2 threads, 0 GPUs\n"


def test_threads_are_the_cores_of_each_process() -> None:
    """Never none, and whole ones; what starts a program says so."""
    for cpus, workers, threads in ((1, 1, 1), (4, 2, 2), (3.5, 2, 1), (0.5, 1, 1), (1, 4, 1)):
        assert SETTINGS._replace(cpus=cpus, workers=workers).threads == threads
    assert environment(SETTINGS._replace(cpus=7))["OMP_NUM_THREADS"] == "7"


def test_nothing_is_imported_from_a_studys_folder(tmp_path: Path) -> None:
    """A folder that was handed on may hold modules of our names; trainings run in it."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").write_text("raise SystemExit('theirs')\n")
    code = "import trainer, sys; print(trainer.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(SETTINGS), cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(str(ROOT)), done.stderr


def test_only_trials_that_are_charged_gpus_see_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that Ray has given to the worker; under a budget of cores nobody would pay for them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert environment(SETTINGS)["CUDA_VISIBLE_DEVICES"] == ""
    assert environment(SETTINGS._replace(gpus=0.5))["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("objectives", "options"),
    [
        (("psnr", "bytes"), ""),
        (("exchange",), "--videos 1 --no-mcs"),
        (("fcs",), "--videos 500 --no-mcs"),
        (("mcs",), "--videos 500 --vgg /vgg"),
        (("unseen",), f"--videos 1 --fit {FIT_STEPS} --no-mcs"),
        (("unseen-mcs", "fcs"), f"--videos 500 --vgg /vgg --fit {FIT_STEPS}"),
    ],
)
def test_an_evaluation_does_what_the_objectives_need(
    objectives: tuple[str, ...], options: str
) -> None:
    """No more videos, features or fitting than one of them asks for; none without any of them."""
    vgg = "/vgg" if any(name.endswith("mcs") for name in objectives) else ""
    assert evaluation(SETTINGS._replace(objectives=objectives, vgg=vgg)) == options.split()
