"""Who wins, who never does, and what a study tells its sampler."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from trainer.config import resolve
from trainer.settings import to_yaml
from tuning import processes
from tuning.ledger import fold
from tuning.outcome import (
    best,
    best_yaml,
    front,
    goodness,
    ranked,
    trials_csv,
    write_outcome,
)
from tuning.records import (
    DONE,
    FAILED,
    STOPPED,
    Record,
    Settings,
    folder_of,
    read_records,
    read_settings,
    require_same,
    settle_settings,
)
from tuning.records import write_record as write

SETTINGS = Settings(
    manifest="/set", words=("a=1",), steps=9, rungs=(1, 3), objectives=("psnr", "bytes"), workers=1,
    cpus=1, gpus=0, interval=2, seed=0, vgg="", space={},
)  # fmt: skip


def trial(number: int, status: str, psnr: float, size: float) -> Record:
    scores = {"psnr": psnr, "bytes": size} if status == DONE else {}
    return Record(f"t{number:04d}", {"latents.static": number}, (), status, scores=scores)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([DONE, FAILED, STOPPED]), st.integers(0, 4), st.integers(0, 4)),
        max_size=9,
    )
)
def test_the_front_is_what_nothing_beats(drawn: list[tuple[str, int, int]]) -> None:
    """By a slow loop over pairs; the best is on it, and only finished trials are."""
    records = [trial(i, *item) for i, item in enumerate(drawn)]
    names = ("psnr", "bytes")
    done = [record for record in records if record.status == DONE]
    slow = set()
    for mine in done:
        a = goodness(mine, names)
        if not any(b != a and b[0] >= a[0] and b[1] >= a[1]
                   for b in (goodness(other, names) for other in done)):  # fmt: skip
            slow.add(mine.id)
    assert {record.id for record in front(records, names)} == slow
    winner = best(records, names)
    assert winner is None if not done else winner and winner.id in slow
    assert len(ranked(records, names)) == len(done)


def test_the_table_says_who_held_what_and_why_one_failed() -> None:
    """One line per trial with its seconds, reason and values."""
    lost = trial(1, FAILED, 0, 0)._replace(reason="out of memory")
    account = fold([
        {"kind": "grant", "budget": 9},
        {"kind": "hold", "lease": "x", "trial": "t0001", "width": 2, "until": 1.5},
    ])  # fmt: skip
    text = trials_csv([trial(0, DONE, 20, 5), lost], SETTINGS, account)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[0]["psnr"] == "20" and rows[0]["pareto"] == "1"
    assert rows[1]["reason"] == "out of memory" and rows[1]["accelerator_seconds"] == "3.0"
    assert rows[1]["psnr"] == "" and rows[1]["latents.static"] == "1"


def test_records_and_settings_come_back(tmp_path: Path) -> None:
    """What is written is read; a folder of another study is refused, naming what differs."""
    record = trial(3, DONE, 20.5, 1)._replace(rungs=((1, 8.25), (3, 9.5)), process=("h", 1, 2))
    write(tmp_path, record)
    assert read_records(tmp_path) == [record]
    settle_settings(tmp_path, SETTINGS)
    settle_settings(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="steps 9, not 10"):
        settle_settings(tmp_path, SETTINGS._replace(steps=10))


def test_a_study_goes_on_with_its_own_footage_alone(tmp_path: Path) -> None:
    """Scores of two sets are not mixed, where the folder is the same; a study from before footage
    was kept goes on."""
    settle_settings(tmp_path, SETTINGS._replace(footage="old"))
    with pytest.raises(UserError) as error:
        require_same(tmp_path, SETTINGS._replace(footage="new"))
    assert str(error.value) == (
        f"/set: not the footage of {tmp_path}, whose scores are of what was there before; choose "
        "another --out, or prepare that again"
    )
    known = json.loads((tmp_path / "study.json").read_text())
    assert known.pop("footage") == "old"
    (tmp_path / "study.json").write_text(json.dumps(known))
    assert require_same(tmp_path, SETTINGS._replace(footage="new"))
    assert read_settings(tmp_path) == SETTINGS


def test_only_the_very_process_is_ended() -> None:
    """A pid with another start time is another process, and is left alone."""
    import os

    me = processes.process(os.getpid())
    assert me is not None and processes.alive(me)
    assert processes.end([me._replace(start=me.start + 1), me._replace(host="elsewhere")]) == []
    assert json.loads(json.dumps(list(me))) == list(me)


def test_the_best_file_says_how_its_figures_come_about(tmp_path: Path) -> None:
    """Trained, and then judged with what the trial's evaluation was given, threads too; where the
    training itself gives the figure, nothing more is said."""
    study = tmp_path / "mine"
    record = Record("t0001", {}, (), DONE, scores={"unseen-fcs": 0.125, "exchange": 20.5})
    write(study, record)
    (folder_of(study, "t0001") / "config.yaml").write_text(to_yaml(resolve(["preset=weizmann"])))
    asked = SETTINGS._replace(objectives=("unseen-fcs", "exchange"), cpus=4, workers=2)
    told = best_yaml(study, record, asked)
    assert told.splitlines()[:5] == [
        "# Trial t0001: unseen-fcs 0.125, exchange 20.5. Train it again, on as many processes as "
        "the trial had:",
        "# accelerate launch --config_file accelerate_config.yaml --num_processes 2 "
        "trainer/main.py --config best.yaml",
        "# Then have it judged as the trial was:",
        "# OMP_NUM_THREADS=2 python -m trainer.evaluate runs/mine-t0001 --videos 1 --fit 200 "
        "--no-mcs",
        "name: mine-t0001",
    ]
    trained = record._replace(scores={"psnr": 20.5, "bytes": 9.0})
    assert "trainer.evaluate" not in best_yaml(study, trained, SETTINGS)


def test_each_winner_of_a_study_trains_into_a_folder_of_its_own(tmp_path: Path) -> None:
    """A larger budget has found a better trial: the same command trains that one from its beginning
    and touches nothing of the one before."""
    study, asked = tmp_path / "mine", SETTINGS._replace(objectives=("psnr",))
    names = []
    for number, psnr in enumerate((20.0, 21.0)):
        record = write(study, Record(f"t{number:04d}", {}, (), DONE, scores={"psnr": psnr}))
        (folder_of(study, record.id) / "config.yaml").write_text(to_yaml(resolve()))
        assert write_outcome(study, asked, read_records(study), fold([])) == record
        names.append(resolve(file=str(study / "best.yaml")).name)
    assert names == ["mine-t0000", "mine-t0001"]


def test_the_best_file_does_not_stay_a_target(tmp_path: Path) -> None:
    """Endpoint, address, file and labels that let Prometheus find the trial go; what was said of
    telemetry for all trials stays."""
    said = ("preset=weizmann", "telemetry.endpoint=false", "telemetry.port=9100")
    found = ("telemetry.endpoint=true", "telemetry.address=0.0.0.0", "telemetry.targets=/t/x.json",
             "telemetry.labels=run=x,study=mine,trial=t0001")  # fmt: skip
    record = Record("t0001", {}, said, DONE, scores={"psnr": 20.5, "bytes": 9.0})
    write(tmp_path, record)
    text = to_yaml(resolve([*said, *found]))
    (folder_of(tmp_path, "t0001") / "config.yaml").write_text(text)
    (tmp_path / "best.yaml").write_text(best_yaml(tmp_path, record, SETTINGS))
    config = resolve(file=str(tmp_path / "best.yaml"))
    assert config.telemetry == resolve(said).telemetry
    assert not config.telemetry.endpoint and config.telemetry.address == "127.0.0.1"
