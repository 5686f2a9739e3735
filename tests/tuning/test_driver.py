"""The driver of a search: alone in its folder, and what it leaves where it is stopped."""

from __future__ import annotations

import csv
import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_shards.errors import UserError
from tests.support.footage import tiny_set
from tests.support.training import environment
from tests.tuning.test_search import words
from trainer.config import resolve
from trainer.settings import to_yaml
from tuning import engine, outcome
from tuning.ledger import Ledger
from tuning.plan import Planned
from tuning.records import (
    DONE,
    STUDY,
    Record,
    Settings,
    folder_of,
    settle_settings,
    write_record,
)
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


def test_other_footage_in_the_same_folder_does_not_go_on_with_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Prepared anew with a cell held out, the same command is refused in a line and changes
    nothing; with the old footage back, it goes on."""
    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    monkeypatch.setattr(engine, "search", stopped(KeyboardInterrupt()))
    assert main(words(data, out)) == 130
    before = (out / STUDY).read_text()
    shutil.rmtree(data)
    tiny_set(tmp_path, size=32, hold_out=(("red-disc", "turn"),))
    capsys.readouterr()
    assert main(words(data, out)) == 2
    assert capsys.readouterr().err == (
        f"error: {data}: not the footage of {out}, whose scores are of what was there before; "
        "choose another --out, or prepare that again\n"
    )
    shutil.rmtree(data)
    tiny_set(tmp_path, size=32)
    assert main(words(data, out)) == 130
    assert (out / STUDY).read_text() == before


FULL = "No space left on device; free some space and run the same command again\n"


class TuneError(Exception):
    """As Ray's: its loop raises one for what the search's own code has raised in it."""


def refusal(file: Path | None = None) -> OSError:
    """A full disk; the system names a file where it is opened, and none where it is written."""
    return OSError(errno.ENOSPC, "No space left on device", *([str(file)] if file else []))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("in_ray", [False, True])
def test_a_full_disk_ends_a_search_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    named: bool,
    in_ray: bool,
) -> None:
    """Code 2 and the file, or the study; what Ray has left is cleared up as at any other end."""
    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    file = out / STUDY if named else None

    def settle(study: Path, _: Settings) -> None:
        (study / engine.DRIVER).write_text("{}")
        (study / engine.SCRATCH).mkdir()
        try:
            raise refusal(file)
        except OSError:
            if in_ray:
                raise TuneError("a traceback")  # noqa: B904
            raise

    ray = SimpleNamespace(shutdown=lambda: None)
    monkeypatch.setattr(engine, "import_ray", lambda *, local: ray)
    monkeypatch.setattr(engine, "_connect", lambda *_: None)
    monkeypatch.setattr(engine, "rays_own", dict)
    monkeypatch.setattr(engine, "settle_settings", settle)
    capsys.readouterr()
    assert main(words(data, out)) == 2
    assert capsys.readouterr().err == f"error: {file or out}: {FULL}"
    assert not (out / engine.DRIVER).exists() and not (out / engine.SCRATCH).exists()


def test_any_other_error_of_a_search_comes_out_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is to have its traceback: no disk has refused anything."""
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    data = tiny_set(tmp_path, size=32)
    for error in (TuneError("a bug"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        monkeypatch.setattr(engine, "search", stopped(error))
        with pytest.raises(type(error)):
            main(words(data, tmp_path / "study"))


def test_a_page_that_a_full_disk_refuses_hides_nothing_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A search that has come to its end says why it gave up, and what it could not write."""

    def search(study: Path, planned: Planned, *, on_change: Callable) -> str:
        settle_settings(study, planned.settings)
        return "5 trials in a row failed"

    def full(path: Path, data: bytes) -> None:
        raise refusal()

    data, out = tiny_set(tmp_path, size=32), tmp_path / "study"
    monkeypatch.setattr(engine, "import_ray", lambda *, local: None)
    monkeypatch.setattr(engine, "search", search)
    monkeypatch.setattr(outcome, "replace_durable", full)
    capsys.readouterr()
    assert main(words(data, out)) == 2
    told = capsys.readouterr()
    assert told.err == f"error: not written down: {out}: {FULL}error: 5 trials in a row failed\n"
    assert not told.out and not (out / "report.html").exists()


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
