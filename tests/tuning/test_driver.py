"""The driver of a search: alone in its folder, and what it leaves where it is stopped."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_shards.errors import UserError
from tests.support.footage import tiny_set
from tests.support.training import environment
from tests.tuning.test_search import words
from trainer.config import resolve
from trainer.settings import to_yaml
from tuning import engine
from tuning.ledger import Ledger
from tuning.plan import Planned
from tuning.records import DONE, STUDY, Record, folder_of, settle_settings, write_record
from tuning.search import main, only_driver

ALONE = """
import sys
from pathlib import Path
from tuning.search import only_driver
with only_driver(Path(sys.argv[1])):
    print("alone")
"""


def another(study: Path) -> subprocess.CompletedProcess:
    """A second search in a folder."""
    return subprocess.run(
        [sys.executable, "-c", ALONE, str(study)], env=environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_an_error_of_the_search_is_not_taken_for_another_search(tmp_path: Path) -> None:
    """Whatever goes wrong inside comes out as it is; a second search is refused meanwhile, and let
    in afterwards."""
    with pytest.raises(PermissionError, match=r"^a disk$"), only_driver(tmp_path):
        refused = another(tmp_path)
        assert refused.returncode == 1
        assert f"UserError: --out: {tmp_path}: another search runs there" in refused.stderr
        raise PermissionError("a disk")
    assert another(tmp_path).stdout == "alone\n"


def stopped(error: BaseException) -> Callable[..., str]:
    """A search that is stopped once its first trial has finished."""

    def search(study: Path, planned: Planned, *, on_change: Callable) -> str:
        settle_settings(study, planned.settings)
        values, given = {"latents.static": 8, "loss.margin": 1.0}, planned.settings.words
        record = Record("t0000", values, given, DONE, scores={"psnr": 20.5}, step=9)
        on_change(write_record(study, record))
        config = to_yaml(resolve([*given, "latents.static=8"]))
        (folder_of(study, "t0000") / "config.yaml").write_text(config)
        raise error

    return search


def test_a_search_that_is_stopped_leaves_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Ctrl-C, or SIGTERM, which does the same: table, best file and page are there, and the same
    command goes on."""
    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    monkeypatch.setattr(engine, "search", stopped(KeyboardInterrupt()))
    capsys.readouterr()
    assert main(words(data, out)) == 130
    told = capsys.readouterr()
    assert told.err == "stopped; the same command goes on\n"
    assert told.out.endswith(f"what there is: {out / 'report.html'}\n")
    (row,) = csv.DictReader((out / "trials.csv").open())
    assert (row["trial"], row["status"], row["psnr"]) == ("t0000", "done", "20.5")
    assert (out / "best.yaml").read_text().startswith("# Trial t0000: psnr 20.5.")
    assert "<b>Best: t0000</b>" in (out / "report.html").read_text()


def test_a_page_that_cannot_be_written_does_not_hide_why_a_search_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Something else has the table's name: that is told, and the interrupt is what counts."""
    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    (out / "trials.csv").mkdir(parents=True)
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    monkeypatch.setattr(engine, "search", stopped(KeyboardInterrupt()))
    capsys.readouterr()
    assert main(words(data, out)) == 130
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: not written down: ") and told[1].startswith("stopped;")


def test_a_search_that_is_stopped_before_ray_is_there_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """There is no study yet whose page could be written."""

    def search(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    monkeypatch.setattr(engine, "search", search)
    capsys.readouterr()
    assert main(words(data, out)) == 130
    told = capsys.readouterr()
    assert told.err == "stopped; the same command goes on\n" and not told.out
    assert not (out / "report.html").exists()


def test_a_search_that_ray_has_no_room_for_leaves_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The command is put right and given again, with another width and a smaller budget: neither
    was written down."""

    def connect(*_: object) -> None:
        raise UserError("--cpus-per-trial: 48, and no node has more than 2")

    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    monkeypatch.setattr(engine, "_connect", connect)
    capsys.readouterr()
    assert main([*words(data, out), "--cpus-per-trial", "48"]) == 2
    told = capsys.readouterr().err
    assert told == "error: --cpus-per-trial: 48, and no node has more than 2\n"
    assert not (out / STUDY).exists() and not Ledger(out).account().budget


EMPTIED = "Expecting value: line 1 column 1 (char 0)"
"""What Python says of a JSON file that lost its contents."""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("study.json", "", f"not readable ({EMPTIED}); choose another --out"),
        ("driver.json", "", f"not readable ({EMPTIED}); remove it"),
        ("trials/t0000/trial.json", "", f"not a trial's record ({EMPTIED}); remove its folder"),
        ("trials/t0000/trial.json", "{}", "not a trial's record ('words'); remove its folder"),
    ],
)
def test_a_damaged_file_of_a_study_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
    text: str,
    said: str,
) -> None:
    """One line that says what to do about it, before anything is started, charged or written."""
    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    damaged = out / name
    damaged.parent.mkdir(parents=True)
    damaged.write_text(text)
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    capsys.readouterr()
    assert main(words(data, out)) == 2
    assert capsys.readouterr().err == f"error: {damaged}: {said}\n"
    assert {path.name for path in out.rglob("*.*")} == {damaged.name, "study.lock"}
    assert damaged.read_text() == text


LOST = """
import sys
from tuning import engine, search
from tuning.guard import RayLost
from tuning.records import settle_settings

def lost(study, planned, **_):
    settle_settings(study, planned.settings)
    raise RayLost("Ray lost its raylet; the same command goes on")

engine.import_ray, engine.search = (lambda *, local: None), lost
sys.exit(search.main(sys.argv[1:]))
"""


def test_a_search_whose_ray_is_lost_leaves_what_there_is(tmp_path: Path) -> None:
    """In a process of its own, since it ends without Ray's farewell: a page without any trial."""
    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    done = subprocess.run(
        [sys.executable, "-c", LOST, *words(data, out)], env=environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.endswith("error: Ray lost its raylet; the same command goes on\n")
    assert "No trial has finished yet." in (out / "report.html").read_text()
    assert (out / "trials.csv").read_text().startswith("trial,parent,status,")
