"""A trial of several processes: however it ends, none of them is left and nothing is held."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from data_shards.cores import cores
from tests.tuning.test_trial import endless, running, state, until
from tuning import processes
from tuning.endings import KILLED
from tuning.ledger import Ledger
from tuning.records import FAILED, RUNG, STOPPED, read_record, stop_mark
from tuning.trial import LATE, LAUNCHER, Trial

pytestmark = [
    pytest.mark.ranks,
    pytest.mark.slow,
    pytest.mark.skipif(cores() < 2, reason="two workers need two cores"),
]


@pytest.mark.parametrize("hangs", [False, True], ids=["leaves", "hangs"])
def test_no_process_of_a_trial_of_two_workers_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """A mark stops it: it saves, for which its launcher gives it nearly as long as the trial does.
    One whose ranks hang when they are asked to leave is killed, and not its launcher alone."""
    monkeypatch.delenv(LAUNCHER, raising=False)
    study, settings = endless(tmp_path)
    settings = settings._replace(workers=2, cpus=2)
    trial, ranks = Trial(study, settings, "t0000"), []
    try:
        assert trial.start() and not trial.advance().over
        launcher = running(study)
        ranks = processes.descendants(launcher.pid)
        assert len(ranks) >= 2 and state(study)["starts"][-1]["world"] == 2
        if hangs:
            for rank in filter(processes.alive, ranks):
                os.kill(rank.pid, signal.SIGSTOP)  # SIGTERM waits until it goes on
            trial._settings = trial._lease._settings = settings._replace(cap=0.1)
            assert trial.advance().over
        else:
            assert psutil.Process(launcher.pid).environ()[LAUNCHER] == "110"
            stop_mark(study, "t0000").touch()
            until(lambda: read_record(study, "t0000").status == STOPPED, "the trial stops")
            trial.stop()
        until(lambda: not any(map(processes.alive, (launcher, *ranks))), "the end of every rank")
        record = read_record(study, "t0000")
        assert record.status == STOPPED and record.reason.endswith(LATE if hangs else RUNG)
        assert state(study)["status"] == ("running" if hangs else "preempted")
        assert not Ledger(study).account().open()
    finally:
        for rank in filter(processes.alive, ranks):
            os.kill(rank.pid, signal.SIGKILL)
        trial.stop()


@pytest.mark.parametrize("killed", [False, True], ids=["crash", "kill"])
def test_a_failed_trial_of_two_workers_has_its_reason(tmp_path: Path, killed: bool) -> None:
    """A run folder that it stumbles over, or a rank that is killed with -9, as the kernel does with
    memory that runs out; not what the launcher draws around it."""
    study, settings = endless(tmp_path)
    if not killed:
        (study / "trials" / "t0000" / "metrics.jsonl").mkdir()
    trial = Trial(study, settings._replace(workers=2, cpus=2), "t0000")
    try:
        assert trial.start()
        if killed:
            assert not trial.advance().over
            ranks = [psutil.Process(p.pid) for p in processes.descendants(running(study).pid)]
            (first,) = [rank for rank in ranks if rank.environ().get("RANK") == "0"]
            first.kill()
        until(lambda: trial.advance().over, "its end")
    finally:
        trial.stop()
    said = KILLED if killed else "ended with code 1: IsADirectoryError: "
    assert trial.record.status == FAILED and trial.record.reason.startswith(said)
    assert not Ledger(study).account().open()
