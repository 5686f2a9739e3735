"""One trial without Ray: how it is stopped, cut short, interrupted, and told from a failure."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.footage import tiny_set
from tests.support.training import SMALL
from tuning import processes
from tuning.actor import ending
from tuning.command import nursery_for, watched
from tuning.endings import interrupted
from tuning.ledger import Ledger
from tuning.nursery import Nursery
from tuning.records import (
    DONE,
    FAILED,
    PENDING,
    RUNNING,
    STOPPED,
    UNFINISHED,
    Record,
    Settings,
    read_record,
    stop_mark,
    write_record,
)
from tuning.trial import Trial

SETTINGS = Settings(
    manifest="", words=(), steps=1000000, rungs=(1,), objectives=("psnr",), workers=1, cpus=1,
    gpus=0, interval=1, seed=0, vgg="", space={},
)  # fmt: skip


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery | None]:
    """What forks the trainings of all these tests: it takes seconds to import everything."""
    made = nursery_for(SETTINGS)
    yield made
    if made is not None:
        made.close()


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def endless(folder: Path, *more: str) -> tuple[Path, Settings]:
    """A study with one trial that would train for ever, and its settings."""
    data = tiny_set(folder / "data", identities=2, actions=2, frames=4, size=32)
    words = (*SMALL, f"data.manifest={data}", "train.steps=1000000", "train.log_steps=1",
             "train.pictures=false", "name=t0000", *more)  # fmt: skip
    write_record(folder / "study", Record("t0000", {}, words))
    Ledger(folder / "study").grant(1e6)
    return folder / "study", SETTINGS._replace(manifest=str(data))


def running(study: Path) -> processes.Process:
    """The process of the trial's training."""
    return processes.Process(*(read_record(study, "t0000").process or ()))


def charged(study: Path) -> float:
    return Ledger(study).account().of_trial("t0000")


def state(study: Path) -> dict:
    return json.loads((study / "trials" / "t0000" / "run.json").read_text())


@pytest.mark.slow
def test_a_mark_stops_a_trial_and_frees_what_it_held(
    tmp_path: Path, nursery: Nursery | None
) -> None:
    """No process of it is left and its seconds are charged, those too in which it took its time to
    leave, and while it did; the actor may take another trial."""
    study, settings = endless(tmp_path)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    try:
        assert trial.start()
        seen = trial.advance()
        assert seen.step == 1 and not seen.over
        known = running(study)
        assert processes.alive(known) and Ledger(study).account().open()
        os.kill(known.pid, signal.SIGSTOP)
        stop_mark(study, "t0000").touch()
        before = charged(study)
        until(lambda: charged(study) > before + 2 * settings.interval, "the lease is held on")
        assert read_record(study, "t0000").status not in (STOPPED, FAILED)
        os.kill(known.pid, signal.SIGCONT)
        until(lambda: read_record(study, "t0000").status == STOPPED, "the trial stops")
        trial.stop()
        assert not processes.alive(known)
        assert not Ledger(study).account().open() and charged(study) > 2 * settings.interval
        assert not (study / "trials" / "t0000" / "report.html").exists()
    finally:
        trial.stop()


@pytest.mark.slow
def test_a_trial_over_its_cap_is_ended_for_good(tmp_path: Path, nursery: Nursery | None) -> None:
    """It saves and leaves, its lease is closed, and no later life goes on or is charged."""
    study, settings = endless(tmp_path)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    try:
        assert trial.start()
        assert not trial.advance().over
        capped = settings._replace(cap=0.1)
        trial._settings = trial._lease._settings = capped
        assert trial.advance().over
        record, account = read_record(study, "t0000"), Ledger(study).account()
        assert record.status == STOPPED and record.step > 0
        assert record.reason == "over its cap of 0.1 accelerator-seconds; saved"
        assert not account.open() and account.of_trial("t0000") > 0.1
        later = Trial(study, capped, "t0000", nursery=nursery)
        assert not later.start()
        assert read_record(study, "t0000") == record
        assert charged(study) == account.of_trial("t0000")
    finally:
        trial.stop()


def test_a_trial_that_is_over_does_not_begin_again(tmp_path: Path) -> None:
    """Its worker was killed between the end and the report: Ray starts another, which finds it
    finished, takes no lease and changes nothing."""
    done = Record("t0000", {}, (), DONE, step=9, scores={"psnr": 20.0}, rungs=((1, 12.0),))
    write_record(tmp_path, done)
    Ledger(tmp_path).grant(0.5)
    trial = Trial(tmp_path, SETTINGS, "t0000")
    assert not trial.start()
    assert ending(trial) == {"step": 9, "score": 12.0, "done": True}
    assert read_record(tmp_path, "t0000") == done
    assert not Ledger(tmp_path).account().leases


@pytest.mark.slow
def test_a_training_that_does_not_leave_is_killed(tmp_path: Path, nursery: Nursery | None) -> None:
    """It hangs when it is asked to: it goes on for what was reserved and one interval more, all of
    that is charged, and then nothing of it is left."""
    study, settings = endless(tmp_path)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    try:
        assert trial.start() and not trial.advance().over
        known, reserved = running(study), charged(study)
        os.kill(known.pid, signal.SIGSTOP)  # SIGTERM waits until it goes on, SIGKILL does not
        trial._settings = trial._lease._settings = settings._replace(cap=0.1)
        assert trial.advance().over
        record = read_record(study, "t0000")
        assert record.status == STOPPED
        assert record.reason == (
            "over its cap of 0.1 accelerator-seconds; killed, since it did not leave in time"
        )
        assert not processes.alive(known) and not Ledger(study).account().open()
        assert reserved <= charged(study) <= reserved + 3 * settings.interval
    finally:
        trial.stop()


@pytest.mark.slow
def test_a_training_that_somebody_else_stops_is_gone_on_with(
    tmp_path: Path, nursery: Nursery | None
) -> None:
    """SIGTERM that the search has not sent: it saves, that is no failure, and a later life goes on
    from there."""
    study, settings = endless(tmp_path)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    later = None
    try:
        assert trial.start() and not trial.advance().over
        os.kill(running(study).pid, signal.SIGTERM)
        assert trial.advance().over
        record = trial.record
        assert (record.status, record.reason) == (PENDING, "interrupted by a signal")
        assert record.status in UNFINISHED and record.step > 0
        assert not Ledger(study).account().open()
        later = Trial(study, settings, "t0000", nursery=nursery)
        assert later.start()
        until(lambda: len(state(study)["starts"]) == 2, "the second life's training begins")
        until(lambda: f"resumed at step {record.step}" in str(state(study)), "it goes on")
    finally:
        trial.stop()
        if later is not None:
            later.stop()


@pytest.mark.slow
def test_a_trial_whose_ray_is_gone_saves_and_ends_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: Nursery | None
) -> None:
    """Nobody waits for it any more: the training saves and leaves, nothing is held, and only then
    its own process ends; the record still says that it runs, so that the next life goes on."""
    study, settings = endless(tmp_path)
    trial = Trial(study, settings, "t0000", nursery=nursery)
    left: list[int] = []
    try:
        assert trial.start() and not trial.advance().over
        known = running(study)
        assert processes.alive(known) and Ledger(study).account().open()
        monkeypatch.setattr(os, "_exit", left.append)  # it would end the tests
        trial._parent = -1
        until(lambda: left, "its process ends")
        assert left == [1] and not processes.alive(known)
        assert not Ledger(study).account().open() and charged(study) > 0
        assert read_record(study, "t0000").status == RUNNING
        assert state(study)["status"] == "preempted"
        until(lambda: not trial._lease._thread.is_alive(), "the lease's thread ends")
    finally:
        trial.stop()


@pytest.mark.parametrize(
    ("status", "code", "begun", "expected"),
    [
        ("preempted", 6, True, True),
        ("preempted", 1, True, True),  # of several workers: the code is the launcher's
        ("preempted", 1, False, False),  # crashed before it began; the status is an earlier life's
        ("running", -signal.SIGTERM, False, True),  # asked before it could save
        ("running", -signal.SIGSEGV, True, False),
        ("non-finite", 3, True, False),
    ],
)
def test_what_an_interruption_is(status: str, code: int, begun: bool, expected: bool) -> None:
    """A signal that asked it to stop, in this very life; anything else is a failure."""
    assert interrupted({"status": status}, code, begun=begun) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("networks.hidden=6000000", "out of memory"),  # weights of 400 TB
        ("optim.gamma_rate=1.0e+30", "non-finite: step "),
        ("", "ended with code 1: IsADirectoryError: "),
    ],
    ids=["memory", "non-finite", "crash"],
)
def test_a_failed_training_has_its_reason(
    tmp_path: Path, nursery: Nursery | None, word: str, said: str
) -> None:
    """Real ones: too large, rates that make numbers overflow, and a run folder it stumbles over."""
    study, settings = endless(tmp_path, *filter(None, [word]))
    if not word:
        (study / "trials" / "t0000" / "metrics.jsonl").mkdir()
    trial = Trial(study, settings, "t0000", nursery=nursery)
    try:
        assert trial.start()
        until(lambda: trial.advance().over, "its end")
    finally:
        trial.stop()
    assert trial.record.status == FAILED and trial.record.reason.startswith(said)
    assert "\n" not in trial.record.reason and not Ledger(study).account().open()


def test_a_trial_whose_parent_is_gone_fails_and_gives_its_lease_back(tmp_path: Path) -> None:
    """Nothing is started, the reason is noted, and nothing goes on charging the ledger."""
    study, settings = endless(tmp_path)
    write_record(study, Record("t0001", {}, (), parent="t0000"))
    trial = Trial(study, settings, "t0001")
    assert not trial.start()
    record = read_record(study, "t0001")
    assert record.status == FAILED and "no checkpoint for t0001 to go on from" in record.reason
    assert not Ledger(study).account().open() and not trial._lease._thread.is_alive()


def test_the_lease_is_held_on_while_an_old_training_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier life left behind may take as long to save as any training that is asked to
    leave: more is reserved meanwhile."""
    study, settings = endless(tmp_path)
    ended = []

    def slow(known: list[processes.Process], *, patience: float) -> None:
        assert patience == processes.PATIENCE
        held = lambda: Ledger(study).account().of_trial("t0001")  # noqa: E731
        until(lambda: held() > 1.2 * settings.interval, "more than the first interval")
        ended.extend(known)

    monkeypatch.setattr(processes, "end", slow)
    old = ("elsewhere", 1, 1)
    write_record(study, Record("t0001", {}, (), process=old, parent="t0000"))
    assert not Trial(study, settings, "t0001").start()  # its parent is gone
    assert ended == [processes.Process(*old)]


def test_a_watched_trial_is_labelled(tmp_path: Path) -> None:
    """Its words name study and trial; without a folder of targets there are none."""
    words = watched(tmp_path / "mine", "t0003", "/targets")
    assert "telemetry.targets=/targets/mine-t0003.json" in words
    assert "telemetry.labels=run=mine-t0003,study=mine,trial=t0003" in words
    assert watched(tmp_path / "mine", "t0003", "") == ()
