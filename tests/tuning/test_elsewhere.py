"""A run folder that another machine's training has: waited for, and no failure of the trial's."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tuning.test_trial import charged, endless
from trainer import runlock
from tuning import elsewhere
from tuning.ledger import Ledger
from tuning.records import PENDING, RUNNING, Settings, read_record, write_record
from tuning.trial import Trial


def entry(host: str, beat: int) -> bytes:
    return json.dumps({"host": host, "pid": 1, "beat": beat}).encode().ljust(512)


@contextmanager
def owned_elsewhere(run: Path) -> Iterator[Callable[[], None]]:
    """Another machine's training counts up in the folder's lock; what comes back has it leave."""
    over = threading.Event()
    descriptor = os.open(run / runlock.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(descriptor, entry("elsewhere", 0), 0)

    def count() -> None:
        for beat in itertools.count(1):
            if over.wait(0.2):
                os.ftruncate(descriptor, 0)
                return
            os.pwrite(descriptor, entry("elsewhere", beat), 0)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield over.set
    finally:
        over.set()
        thread.join()
        os.close(descriptor)


def moved(folder: Path) -> tuple[Path, Settings]:
    """A study whose trial was training on another machine."""
    study, settings = endless(folder)
    record = read_record(study, "t0000")._replace(status=RUNNING, process=("elsewhere", 1, 1))
    write_record(study, record)
    return study, settings


@pytest.mark.slow
def test_a_trial_begins_once_its_training_on_another_node_has_left(tmp_path: Path) -> None:
    """Nobody can end that from here. Its lease is held all the while, and the trial goes on."""
    study, settings = moved(tmp_path)
    trial = Trial(study, settings, "t0000")
    try:
        with owned_elsewhere(study / "trials" / "t0000") as leave:
            threading.Timer(2.5, leave).start()
            begun = time.monotonic()
            assert trial.start() and time.monotonic() - begun > 2
            assert charged(study) > 2 * settings.interval
        assert not trial.advance().over
        assert read_record(study, "t0000").status == RUNNING
    finally:
        trial.stop()


@pytest.mark.slow
def test_a_trial_whose_folder_is_in_use_is_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node's training does not leave in time: ours is refused by the lock, which is not
    its failure, and gives its lease back."""
    monkeypatch.setattr("tuning.trial.PATIENCE", 0.5)
    study, settings = moved(tmp_path)
    trial = Trial(study, settings, "t0000")
    try:
        with owned_elsewhere(study / "trials" / "t0000"):
            assert trial.start()
            assert trial.advance().over
    finally:
        trial.stop()
    record = read_record(study, "t0000")
    assert (record.status, record.reason) == (PENDING, "in use by process 1 on elsewhere")
    assert not Ledger(study).account().open()


def test_who_has_a_folder_is_read_from_its_lock(tmp_path: Path) -> None:
    """Of another machine only: what runs on this one can be ended. It keeps a training out where
    that was refused before it began; one of several workers has its launcher's code."""
    lock = tmp_path / elsewhere.LOCK
    assert elsewhere.LOCK == runlock.LOCK and elsewhere.owner(tmp_path) == {}
    for content in (b"", b"half", entry(socket.gethostname(), 4)):
        lock.write_bytes(content)
        assert elsewhere.owner(tmp_path) == {}
        assert elsewhere.kept_out(tmp_path, 2, begun=False, workers=1) == ""
    lock.write_bytes(entry("elsewhere", 4))
    assert elsewhere.owner(tmp_path)["beat"] == 4
    told = "in use by process 1 on elsewhere"
    for code, begun, workers, expected in (
        (2, False, 1, told), (2, True, 1, ""), (1, False, 1, ""), (1, False, 2, told),
        (3, False, 2, ""), (-9, False, 1, ""),
    ):  # fmt: skip
        assert elsewhere.kept_out(tmp_path, code, begun=begun, workers=workers) == expected


def test_an_owner_that_counts_no_longer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node is gone: the training itself sees for how long to respect the lock. Nor is anybody
    waited for once the trial has to leave."""
    monkeypatch.setattr(elsewhere, "STILL", 0.5)
    (tmp_path / runlock.LOCK).write_bytes(entry("elsewhere", 4))
    for unless, least in ((lambda: False, 0.5), (lambda: True, 0.0)):
        begun = time.monotonic()
        elsewhere.wait(tmp_path, patience=60, unless=unless)
        assert least <= time.monotonic() - begun < 30
