"""A lease without a training: when its holder is asked to leave, when killed, what is charged."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from pathlib import Path

from tuning.lease import Lease
from tuning.ledger import Ledger
from tuning.records import Settings

SETTINGS = Settings(
    manifest="", words=(), steps=9, rungs=(), objectives=("psnr",), workers=1, cpus=2, gpus=0,
    interval=1.2, seed=0, vgg="", space={},
)  # fmt: skip


class Holder:
    """Notes when it is asked to leave, and when it is killed, in seconds since it was made."""

    def __init__(self, study: Path, settings: Settings) -> None:
        self.asked: list[float] = []
        self.killed: list[float] = []
        self.begun = time.monotonic()
        self.lease = Lease(
            study, settings, "t0000", watch=lambda: None,
            ask=lambda: self.asked.append(self.held()),
            kill=lambda: self.killed.append(self.held()),
        )  # fmt: skip

    def held(self) -> float:
        return time.monotonic() - self.begun


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_who_does_not_leave_is_killed_and_charged_for_all_of_it(tmp_path: Path) -> None:
    """Two cores under a budget of 1.5 s each: asked once 1.2 s are reserved and 1.8 s are not to be
    had, killed before one interval more is over; at no moment is less charged than held."""
    ledger = Ledger(tmp_path)
    ledger.grant(3.0)
    holder = Holder(tmp_path, SETTINGS)
    assert holder.lease.take()
    while not holder.killed:
        held = holder.held() - 0.1  # it began later than its holder
        assert ledger.account().spent >= SETTINGS.width * held
        time.sleep(0.05)
    assert len(holder.asked) == 1 and 0.6 <= holder.asked[0] < 1.2
    assert 1.8 <= holder.killed[0] < 2.4 and not holder.lease.problem
    holder.lease.end()
    account = ledger.account()
    assert not account.open() and account.left == 0
    assert 2 * 1.8 <= account.spent <= account.budget + SETTINGS.width * SETTINGS.interval


def test_a_ledger_that_cannot_be_kept_is_a_refusal(tmp_path: Path) -> None:
    """Damaged while a lease is held: its thread lives on, asks and kills, and says what is wrong;
    nothing is held for longer than with a spent budget."""
    ledger, settings = Ledger(tmp_path), SETTINGS._replace(interval=0.4)
    ledger.grant(100)
    holder = Holder(tmp_path, settings)
    assert holder.lease.take()
    good = tmp_path / "good"
    damaged = tmp_path / "damaged"
    damaged.write_text('{"kind":"party"}\n')
    good.write_bytes(ledger.path.read_bytes())
    damaged.rename(ledger.path)
    until(lambda: holder.killed)
    assert holder.lease.refused and len(holder.asked) == 1
    assert holder.lease.problem.startswith(f"{ledger.path}: not a ledger ('party' is no kind")
    good.rename(ledger.path)
    holder.lease.end()
    assert not ledger.account().open() and ledger.account().spent >= settings.width * 0.4


def test_a_trial_over_its_cap_holds_nothing(tmp_path: Path) -> None:
    """What earlier lives were charged counts, too; ending what was never taken changes nothing."""
    ledger = Ledger(tmp_path)
    ledger.grant(100)
    assert ledger.hold("t0000.old", trial="t0000", width=2, until=3)
    holder = Holder(tmp_path, SETTINGS._replace(cap=6))
    assert not holder.lease.take() and holder.lease.capped
    holder.lease.end()
    assert ledger.account().spent == 6 and not holder.asked and not holder.killed


def test_what_is_left_for_one_interval_is_held(tmp_path: Path) -> None:
    """A budget of just one interval: the search gives a trial its turn, and the ledger bears it.
    Were it refused, nothing would be spent, and the next trial would have its turn, for ever."""
    ledger = Ledger(tmp_path)
    ledger.grant(SETTINGS.width * SETTINGS.interval)
    holder = Holder(tmp_path, SETTINGS)
    assert holder.lease.take()
    holder.lease.end()
    assert 0 < ledger.account().spent < SETTINGS.width * SETTINGS.interval


def test_a_beat_that_waits_for_its_turn_reserves_a_whole_interval(tmp_path: Path) -> None:
    """Others keep the ledger's lock for half an interval: what is reserved then counts from there,
    so that the next beat is not late already."""
    ledger = Ledger(tmp_path)
    ledger.grant(100)
    holder = Holder(tmp_path, SETTINGS)
    assert holder.lease.take()
    with ledger.path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(max(0.0, 1.1 - holder.held()))
        released = holder.held()
    until(lambda: ledger.account().spent > 1.5 * SETTINGS.width * SETTINGS.interval)
    reserved = ledger.account().spent / SETTINGS.width
    holder.lease.end()
    assert reserved >= released + SETTINGS.interval - 0.1  # it began later than its holder
    assert not holder.asked and not holder.killed
