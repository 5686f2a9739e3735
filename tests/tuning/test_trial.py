"""One trial without Ray: stopped by a mark, its training gone, its lease closed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.footage import tiny_set
from tests.support.training import SMALL
from tuning import processes
from tuning.command import nursery_for, watched
from tuning.ledger import Ledger
from tuning.records import (
    FAILED,
    STOPPED,
    Record,
    Settings,
    read_record,
    stop_mark,
    write_record,
)
from tuning.trial import Trial


def until(condition, what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def endless(folder: Path) -> tuple[Path, Settings]:
    """A study with one trial that would train for ever, and its settings."""
    data = tiny_set(folder / "data", identities=2, actions=2, frames=4, size=32)
    words = (*SMALL, f"data.manifest={data}", "train.steps=1000000", "train.log_steps=1",
             "train.pictures=false", "name=t0000")  # fmt: skip
    write_record(folder / "study", Record("t0000", {}, words))
    Ledger(folder / "study").grant(1e6)
    return folder / "study", Settings(
        manifest=str(data), words=(), steps=1000000, rungs=(1,), objectives=("psnr",), workers=1,
        cpus=1, gpus=0, interval=2, seed=0, vgg="", space={},
    )  # fmt: skip


@pytest.mark.slow
def test_a_mark_stops_a_trial_and_frees_what_it_held(tmp_path: Path) -> None:
    """No process of it is left and its seconds are charged; the actor may take another trial."""
    study, settings = endless(tmp_path)
    nursery = nursery_for(settings)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    try:
        assert trial.start()
        seen = trial.advance()
        assert seen.step == 1 and not seen.over
        known = processes.Process(*(read_record(study, "t0000").process or ()))
        assert processes.alive(known) and Ledger(study).account().open()
        stop_mark(study, "t0000").touch()
        until(lambda: read_record(study, "t0000").status == STOPPED, "the trial stops")
        trial.stop()
        assert not processes.alive(known)
        account = Ledger(study).account()
        assert not account.open() and account.of_trial("t0000") > 0
        assert not (study / "trials" / "t0000" / "report.html").exists()
    finally:
        trial.stop()
        if nursery is not None:
            nursery.close()


@pytest.mark.slow
def test_a_trial_over_its_cap_is_ended_for_good(tmp_path: Path) -> None:
    """It saves and leaves, its lease is closed, and no later life goes on or is charged."""
    study, settings = endless(tmp_path)
    nursery = nursery_for(settings)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    try:
        assert trial.start()
        assert not trial.advance().over
        trial._settings = capped = settings._replace(cap=0.1)
        assert trial.advance().over
        record, account = read_record(study, "t0000"), Ledger(study).account()
        assert record.status == STOPPED and record.step > 0
        assert record.reason == "over its cap of 0.1 accelerator-seconds; saved"
        assert not account.open() and account.of_trial("t0000") > 0.1
        later = Trial(study, capped, "t0000", nursery=nursery)
        assert not later.start()
        assert read_record(study, "t0000").reason == "over its cap of 0.1 accelerator-seconds"
        assert Ledger(study).account().of_trial("t0000") == account.of_trial("t0000")
    finally:
        trial.stop()
        if nursery is not None:
            nursery.close()


def test_a_trial_whose_parent_is_gone_fails_and_gives_its_lease_back(tmp_path: Path) -> None:
    """Nothing is started, the reason is noted, and nothing goes on charging the ledger."""
    study, settings = endless(tmp_path)
    write_record(study, Record("t0001", {}, (), parent="t0000"))
    trial = Trial(study, settings, "t0001")
    assert not trial.start()
    record = read_record(study, "t0001")
    assert record.status == FAILED and "no checkpoint for t0001 to go on from" in record.reason
    assert not Ledger(study).account().open() and not trial._thread.is_alive()


def test_a_watched_trial_is_labelled(tmp_path: Path) -> None:
    """Its words name study and trial; without a folder of targets there are none."""
    words = watched(tmp_path / "mine", "t0003", "/targets")
    assert "telemetry.targets=/targets/mine-t0003.json" in words
    assert "telemetry.labels=run=mine-t0003,study=mine,trial=t0003" in words
    assert watched(tmp_path / "mine", "t0003", "") == ()
