"""Whose turn it is: what is resumed, what counts as a failure, and when a search gives up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_shards.errors import UserError
from tuning.asking import reason_of
from tuning.engine import Way, idle_gpus, require_room
from tuning.ledger import Ledger
from tuning.population import Wait
from tuning.records import (
    BUDGET,
    DONE,
    FAILED,
    OVER_CAP,
    PENDING,
    RUNG,
    RUNNING,
    STOPPED,
    Record,
    Settings,
    folder_of,
    read_record,
    stop_mark,
    write_record,
)
from tuning.space import space_of
from tuning.turns import IN_A_ROW, RETRIES, Turns

SPACE = space_of({"latents.static": {"low": 4, "high": 64}})
SETTINGS = Settings(
    manifest="/set", words=("preset=weizmann",), steps=9, rungs=(), objectives=("psnr",), workers=1,
    cpus=1, gpus=0, interval=1, seed=0, vgg="", space={},
)  # fmt: skip
WHY = "its Ray worker failed: RuntimeError: no such device"


def turns(study: Path, seen: list[Record], **way) -> Turns:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    Ledger(study).grant(100)
    return Turns(study, SETTINGS, SPACE, Way(searcher="random", **way), seen.append)


def drawn(made: Turns) -> Record:
    record = made.next()
    assert isinstance(record, Record)
    return record


def test_a_search_whose_workers_all_fail_gives_up(tmp_path: Path) -> None:
    """Each trial is recorded as failed with its reason; the fifth that cost nothing is the last."""
    seen: list[Record] = []
    made = turns(tmp_path, seen)
    for _ in range(IN_A_ROW):
        assert not made.gave_up
        made.failed(drawn(made).id, WHY)
    assert made.next() is None
    assert made.gave_up == (
        f"5 trials in a row failed before they had cost an accelerator-second; t0004: {WHY}"
    )
    assert [(r.id, r.status, r.reason) for r in seen] == [
        (f"t000{number}", FAILED, WHY) for number in range(5)
    ]
    assert read_record(tmp_path, "t0004").status == FAILED


def test_failures_that_cost_something_do_not_end_a_search(tmp_path: Path) -> None:
    """One that held accelerators for a second, or was finished, begins the count anew."""
    made, ledger = turns(tmp_path, []), Ledger(tmp_path)
    for number in range(3 * IN_A_ROW):
        record = drawn(made)
        if number % IN_A_ROW == 1:
            write_record(tmp_path, record._replace(status=DONE, scores={"psnr": 20.0}))
            made.ended(record.id)
            continue
        if number % IN_A_ROW == IN_A_ROW - 1:
            assert ledger.hold(record.id, trial=record.id, width=1, until=1.5)
        made.failed(record.id, WHY)
    assert not made.gave_up and isinstance(made.next(), Record)


def costly(made: Turns, ledger: Ledger) -> None:
    """A trial that fails after two seconds."""
    record = drawn(made)
    assert ledger.hold(record.id, trial=record.id, width=1, until=2)
    made.failed(record.id, WHY)


def test_a_study_in_which_no_trial_comes_to_its_end_gives_up(tmp_path: Path) -> None:
    """Five in a row, whatever they cost, as where each runs out of memory; not where one of the
    study has come to its end, be it in an earlier life."""
    made, ledger = turns(tmp_path, []), Ledger(tmp_path)
    for _ in range(IN_A_ROW):
        assert not made.gave_up
        costly(made, ledger)
    assert made.next() is None
    assert made.gave_up == f"5 trials in a row failed, and none has come to its end; t0004: {WHY}"
    whole = read_record(tmp_path, "t0000")._replace(status=DONE, reason="", scores={"psnr": 20.0})
    write_record(tmp_path, whole)
    again = turns(tmp_path, [])
    for _ in range(IN_A_ROW):
        costly(again, ledger)
    assert not again.gave_up and isinstance(again.next(), Record)


def test_failures_wait_for_what_was_begun_before_them(tmp_path: Path) -> None:
    """Trials that fail soon overtake one that may be fine: its end decides."""
    made, ledger = turns(tmp_path, []), Ledger(tmp_path)
    first = drawn(made)
    for _ in range(2 * IN_A_ROW):
        costly(made, ledger)
    assert not made.gave_up
    made.failed(first.id, WHY)
    assert made.gave_up.startswith("11 trials in a row failed, and none has come to its end; t0000")


def test_a_removed_folder_costs_no_other_trial(tmp_path: Path) -> None:
    """Three finished, the second removed: the next one is the fourth, and the third stays."""
    made = turns(tmp_path, [])
    for _ in range(3):
        record = drawn(made)
        write_record(tmp_path, record._replace(status=DONE, scores={"psnr": 20.0}))
        made.ended(record.id)
    shutil.rmtree(folder_of(tmp_path, "t0001"))
    assert drawn(turns(tmp_path, [])).id == "t0003"
    assert read_record(tmp_path, "t0002").status == DONE


def test_what_is_over_is_not_failed_again(tmp_path: Path) -> None:
    """A worker that dies after its trial has ended changes nothing of what is known of it."""
    seen: list[Record] = []
    made = turns(tmp_path, seen)
    record = drawn(made)
    write_record(tmp_path, record._replace(status=BUDGET, reason="the budget is spent; saved"))
    made.failed(record.id, WHY)
    assert read_record(tmp_path, record.id).reason == "the budget is spent; saved"
    assert seen[-1].status == BUDGET


def test_an_interrupted_trial_is_taken_up_again_but_not_for_ever(tmp_path: Path) -> None:
    """Twice in one life of the search, before any other; then another life's turn has come."""
    made = turns(tmp_path, [])
    first = drawn(made)
    for _ in range(RETRIES):
        write_record(tmp_path, first._replace(status=PENDING, reason="interrupted by a signal"))
        made.ended(first.id)
        assert drawn(made).id == first.id
    made.ended(first.id)
    assert drawn(made).id == "t0001"
    again = turns(tmp_path, [])
    assert [drawn(again).id for _ in range(3)] == ["t0000", "t0001", "t0002"]


def test_a_search_waits_for_trials_that_may_be_interrupted(tmp_path: Path) -> None:
    """The last trial is out, and is interrupted: it is taken up again; no more trials come only
    once it has ended, or when nothing is left of the budget."""
    made, ledger = turns(tmp_path, [], trials=1), Ledger(tmp_path)
    record = drawn(made)
    assert isinstance(made.next(), Wait)
    write_record(tmp_path, record._replace(status=PENDING, reason="interrupted by a signal"))
    made.ended(record.id)
    assert drawn(made).id == record.id and isinstance(made.next(), Wait)
    assert ledger.hold("a", trial=record.id, width=1, until=99.5)
    assert made.next() is None
    ledger.grant(200)
    assert isinstance(made.next(), Wait)
    write_record(tmp_path, record._replace(status=DONE, scores={"psnr": 20.0}))
    made.ended(record.id)
    assert made.next() is None


def test_a_study_of_trials_over_their_cap_gives_up(tmp_path: Path) -> None:
    """Five that all held too much, and none that came to its end: the cap is too low."""
    made, ledger = turns(tmp_path, []), Ledger(tmp_path)
    for _ in range(IN_A_ROW):
        record = drawn(made)
        assert ledger.hold(record.id, trial=record.id, width=1, until=1.5)
        capped = record._replace(status=STOPPED, reason=f"{OVER_CAP} of 1 accelerator-seconds")
        write_record(tmp_path, capped)
        made.ended(record.id)
    assert made.next() is None
    assert made.gave_up == (
        "5 trials in a row failed, and none has come to its end; t0004: over its cap of 1 "
        "accelerator-seconds"
    )


def test_a_trial_that_still_runs_is_told_to_stop(tmp_path: Path) -> None:
    """The scheduler has no use for it: a mark tells its process, which writes the record."""
    seen: list[Record] = []
    made = turns(tmp_path, seen, trials=1)
    record = drawn(made)
    write_record(tmp_path, record._replace(status=RUNNING))
    made.reported(record.id)
    made.ended(record.id)
    assert stop_mark(tmp_path, record.id).exists()
    assert [r.status for r in seen] == [RUNNING, STOPPED]
    assert read_record(tmp_path, record.id).status == RUNNING and made.next() is None


def test_a_trial_that_was_told_to_stop_is_over_in_the_next_life(tmp_path: Path) -> None:
    """The search was killed before the trial's process had written that down; one that ran on is
    gone on with."""
    made = turns(tmp_path, [])
    for stopped in (True, False):
        record = drawn(made)
        write_record(tmp_path, record._replace(status=RUNNING))
        if stopped:
            made.ended(record.id)
    assert drawn(turns(tmp_path, [])).id == "t0001"
    record = read_record(tmp_path, "t0000")
    assert (record.status, record.reason) == (STOPPED, RUNG)


def test_a_reason_is_one_line_of_tunes_file(tmp_path: Path) -> None:
    """An exception in the last of its traceback's lines, a lost worker in the first of its own."""
    file = tmp_path / "error.txt"
    file.write_text(
        "Failure # 1 (occurred at 2026-01-01_00-00-00)\nOld: story\n"
        "Failure # 2 (occurred at 2026-01-01_00-00-09)\nThe actor died because of an error raised "
        "in its creation task, ray::Ours.__init__() (pid=1)\n  File x\nRuntimeError: no such "
        "device\n"
    )
    assert reason_of(str(file)) == WHY
    file.write_text(
        "Failure # 1 (occurred at 2026-01-01_00-00-00)\nThe actor died unexpectedly before "
        "finishing this task.\n\tclass_name: Ours\n\tpid: 7\n"
    )
    assert reason_of(str(file)) == (
        "its Ray worker failed: The actor died unexpectedly before finishing this task."
    )
    assert reason_of(None) == "its Ray worker failed: no reason is known"


@pytest.mark.parametrize(
    ("cpus", "gpus", "said"),
    [
        (1, 8, "--gpus-per-trial: 8, and no node has more than 4"),
        (48, 0, "--cpus-per-trial: 48, and no node has more than 32"),
        (32, 4, "--gpus-per-trial: 4 and 32 cores, and no node has both"),
        (8, 4, ""),
        (32, 1, ""),
    ],
)
def test_a_trial_has_to_fit_on_one_node(cpus: int, gpus: int, said: str) -> None:
    """Two nodes of 4 GPUs are not one of 8, and the cores of one are of no use to another."""
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 1.0}]
    asked = SETTINGS._replace(cpus=cpus, gpus=gpus)
    if not said:
        assert require_room(asked, nodes) is None
        return
    with pytest.raises(UserError) as error:
        require_room(asked, nodes)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("node", "asked", "room"),
    [
        ({"CPU": 1.0, "GPU": 8.0}, {"gpus": 1}, (32, 4)),
        ({"CPU": 8.0, "GPU": 8.0}, {"gpus": 1}, None),
        ({"CPU": 8.0, "GPU": 8.0}, {"gpus": 1, "cpus": 2}, (32, 16)),
        ({"CPU": 6.0, "GPU": 2.0}, {"gpus": 0.3}, None),  # three on each, not six on both
        ({"CPU": 5.0, "GPU": 2.0}, {"gpus": 0.3}, (24, 20)),
        ({"CPU": 1.0, "GPU": 8.0}, {"gpus": 0}, None),
    ],
)
def test_cores_that_keep_gpus_idle_are_told(
    node: dict[str, float], asked: dict[str, float], room: tuple[int, int] | None
) -> None:
    """Four nodes alike: a trial needs cores too, and without them most of a cluster sleeps. Nothing
    is said where no more trials are wanted than there is room for."""
    settings = SETTINGS._replace(**asked)
    told = idle_gpus(settings, [node] * 4)
    assert bool(told) == (room is not None)
    if room is not None:
        start = "GPUs stay idle: they have room for {} trials, the cores beside them for {} at "
        assert told.startswith(start.format(*room) + f"--cpus-per-trial {settings.cpus}; ")
        assert not idle_gpus(settings, [node] * 4, concurrent=room[1])
        assert idle_gpus(settings, [node] * 4, concurrent=room[1] + 1) == told


def test_endpoints_on_a_cluster_listen_where_prometheus_finds_them() -> None:
    """On all addresses, unless the words of the trials say otherwise; on loopback elsewhere."""
    assert Way(address="head:6379").listen(("preset=golf",)) == "0.0.0.0"
    assert Way(address="head:6379").listen(("telemetry.address=10.0.0.1",)) == ""
    assert Way().listen(("preset=golf",)) == ""
