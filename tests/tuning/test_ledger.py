"""The ledger: write-ahead, never overspent, never wrong by more than an interval."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from tuning.ledger import EMPTY, Ledger, apply, fold, may_hold

INTERVAL = 2.0


def held(lease: str, until: float, width: float = 1.0) -> dict:
    return {"kind": "hold", "lease": lease, "trial": lease[0], "width": width, "until": until}


@given(
    budget=st.floats(0.5, 40),
    lives=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 12), st.booleans(), st.floats(0.01, 0.99)),
        max_size=12,
    ),
)
@settings(max_examples=200, deadline=None)
def test_it_never_overspends_and_errs_by_less_than_an_interval(
    budget: float, lives: list[tuple[int, int, bool, float]]
) -> None:
    """Whatever beats, ends and kills come: charged >= held, within budget, close for each lease."""
    account = apply(EMPTY, {"kind": "grant", "budget": budget})
    truth, widths = 0.0, 0.0
    for number, (width, beats, killed, share) in enumerate(lives):
        lease, until = f"{number}", 0.0
        for beat in range(beats + 1):
            wanted = (beat + 2) * INTERVAL / 2
            if not may_hold(account, lease=lease, trial=lease, width=width, until=wanted):
                break
            account, until = apply(account, held(lease, wanted, width)), wanted
        if not until:
            continue
        # It is killed, or lets go, between its last beat and the end of what it reserved.
        really = until - INTERVAL / 2 * share
        truth += width * really
        widths += width
        if not killed:
            account = apply(account, {"kind": "end", "lease": lease, "held": really})
        assert account.spent <= budget + 1e-4
    assert truth <= account.spent + 1e-9 <= truth + widths * INTERVAL + 1e-6


def test_a_trial_is_capped_over_all_its_lives() -> None:
    """What an earlier life held counts towards a trial's own cap."""
    account = fold([{"kind": "grant", "budget": 100}, held("a1", 6), held("b1", 6)])
    assert account.of_trial("a") == 6
    assert may_hold(account, lease="a2", trial="a", width=1, until=4, cap=10)
    assert not may_hold(account, lease="a2", trial="a", width=1, until=5, cap=10)
    assert may_hold(account, lease="a1", trial="a", width=1, until=10, cap=10)


def test_a_file_survives_a_writer_that_was_cut_off(tmp_path: Path) -> None:
    """Half a last line counts for nothing and is gone; what came before is all there."""
    ledger = Ledger(tmp_path)
    ledger.grant(10)
    assert ledger.hold("a1", trial="a", width=2, until=1)
    before = ledger.path.read_bytes()
    for cut in range(1, len(before) - before.index(b"\n")):
        ledger.path.write_bytes(before[:-cut])
        assert ledger.account().spent in (0.0, 2.0) and ledger.account().budget == 10
        assert ledger.path.read_bytes() in (before, before[: before.index(b"\n") + 1])
    ledger.path.write_bytes(before + b'{"kind":"ho')
    assert ledger.hold("b1", trial="b", width=1, until=3) and ledger.account().spent == 5
    assert [json.loads(line)["kind"] for line in ledger.path.open()] == ["grant", "hold", "hold"]


def test_a_budget_is_refused_extended_and_recovered(tmp_path: Path) -> None:
    """A hold beyond the budget is refused, a larger budget bears it, a dead lease is charged."""
    ledger = Ledger(tmp_path)
    ledger.grant(10)
    assert ledger.hold("a1", trial="a", width=1, until=8)
    assert not ledger.hold("b1", trial="b", width=1, until=3)
    assert ledger.settle() == ["a1"] and ledger.account().left == 2
    assert ledger.grant(5).budget == 10
    assert ledger.grant(20).budget == 20
    assert ledger.hold("b1", trial="b", width=1, until=3)
    ledger.end("b1", held=1.5)
    ledger.end("b1", held=99)
    assert ledger.account().left == 20 - 8 - 1.5


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    """An empty budget and a file that is no ledger."""
    with pytest.raises(UserError, match="more than 0 hours"):
        Ledger(tmp_path).grant(0)
    (tmp_path / "ledger.jsonl").write_text('{"kind":"party"}\n')
    with pytest.raises(UserError, match="not a ledger"):
        Ledger(tmp_path).account()


def test_what_is_held_beyond_the_budget_is_charged_and_what_has_ended_is_over(
    tmp_path: Path,
) -> None:
    """Who has to leave holds on for a while in any case; no beat opens a lease that was settled."""
    ledger = Ledger(tmp_path)
    ledger.grant(10)
    assert ledger.hold("a1", trial="a", width=1, until=8)
    assert not ledger.hold("a1", trial="a", width=1, until=12)
    assert ledger.hold("a1", trial="a", width=1, until=12, beyond=True)
    assert ledger.account().spent == 12 and ledger.account().left == 0
    ledger.end("a1", held=9)
    assert not ledger.hold("a1", trial="a", width=1, until=9.5)
    assert not ledger.hold("a1", trial="a", width=1, until=9.5, beyond=True)
    assert ledger.account().open() == [] and ledger.account().spent == 9


def test_a_long_ledger_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300,000 lines, as many as 32 GPUs write in a week: whoever asks again, or beats, parses what
    is new and nothing else."""
    lines = ['{"kind":"grant","budget":1e9}\n']
    lines += [
        f'{{"kind":"hold","lease":"a{i % 32}","trial":"a","width":1,"until":{1 + i // 32}}}\n'
        for i in range(300_000)
    ]
    ledger = Ledger(tmp_path)
    ledger.path.write_text("".join(lines))
    parsed: list[bytes] = []
    loads = json.loads

    def counted(text: bytes, **more: Any) -> Any:
        parsed.append(text)
        return loads(text, **more)

    monkeypatch.setattr(json, "loads", counted)
    assert ledger.account().spent == 300_000 and len(parsed) == 300_001
    parsed.clear()
    with ledger.path.open("a") as file:  # another process
        file.write('{"kind":"end","lease":"a7","held":9000}\n')
    assert ledger.account().spent == 300_000 - 375
    assert parsed == [b'{"kind":"end","lease":"a7","held":9000}']
    parsed.clear()
    assert ledger.hold("a0", trial="a", width=1, until=9380) and not parsed
    assert ledger.account().spent == 300_000 - 375 + 5 and len(parsed) == 1


@pytest.mark.parametrize("renamed", [False, True])
def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, renamed: bool) -> None:
    """Restored from a copy, longer or shorter than what is known, in place or under its name: what
    counts is what is there."""
    ledger = Ledger(tmp_path)
    ledger.grant(10)
    assert ledger.hold("a1", trial="a", width=2, until=1) and ledger.account().spent == 2
    before = ledger.path.read_bytes()
    longer = json.dumps({"kind": "grant", "budget": 50}) + "\n"
    longer += "".join(json.dumps(held(f"lease-{i}", 3)) + "\n" for i in range(4))
    for text, left in ((longer.encode(), 38), (before[: before.index(b"\n") + 1], 10), (b"", 0)):
        place = tmp_path / "copy" if renamed else ledger.path
        place.write_bytes(text)
        place.rename(ledger.path)
        assert ledger.account().left == left == Ledger(tmp_path).account().left


def test_waiting_for_the_lock_costs_nothing_of_what_is_reserved(tmp_path: Path) -> None:
    """How long a lease may hold is asked for when nobody else can write any more."""
    ledger = Ledger(tmp_path)
    ledger.grant(10)

    def until() -> float:
        with ledger.path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return 3.5

    assert ledger.hold("a1", trial="a", width=2, until=until) == 3.5
    assert ledger.account().spent == 7
    assert ledger.hold("b1", trial="b", width=2, until=until) == 0 and ledger.account().spent == 7
