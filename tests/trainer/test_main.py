"""The main job: end to end, resumed, on several ranks, and with bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_shards.errors import UserError
from data_shards.manifest import read_manifest
from data_shards.options import Options
from tests.support.footage import tiny_set
from tests.support.training import command, environment, launch, tensors, train
from trainer import evaluate
from trainer.fitting import nearest_clips
from trainer.main import main
from trainer.parallel import start
from trainer.run import open_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    return tiny_set(folder, identities=3, actions=2, frames=6, size=32)


def equal(a: dict, b: dict) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_a_run_leaves_everything_that_was_promised(tmp_path: Path, data: Path) -> None:
    """Config, checkpoint, metrics, sheets, GIF, MP4, curves and a report that needs no network."""
    assert train(tmp_path, data, "train.steps=10") == 0
    run = tmp_path / "run"
    for name in ("sheet.png", "wall.gif", "wall.mp4", "curves.png"):
        assert (run / "samples" / name).stat().st_size > 100
    assert {"config.yaml", "metrics.jsonl", "report.html", "run.json"} <= {
        p.name for p in run.iterdir()
    }
    report = (run / "report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org/", "") and "data:image" in report
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    assert {"loss/rec", "loss/static", "loss/triplet", "psnr", "clips_per_second"} <= set(lines[0])
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "done" and state["final"]["clips"] == 6


def test_resuming_repeats_every_bit(tmp_path: Path, data: Path) -> None:
    """Ten steps, a new process's ten more, are twenty: networks, average, moments and all rows."""
    assert train(tmp_path, data, "train.steps=20", name="straight") == 0
    assert train(tmp_path, data, "train.steps=10", name="halves") == 0
    assert train(tmp_path, data, "train.steps=20", name="halves") == 0
    straight, halves = (tensors(tmp_path / name, 20) for name in ("straight", "halves"))
    assert len(straight) > 100 and not equal(straight, halves)
    logged = [
        [(line["step"], line["loss/total"]) for line in map(json.loads, file.open())]
        for file in (tmp_path / name / "metrics.jsonl" for name in ("straight", "halves"))
    ]
    assert logged[0] == logged[1] and [step for step, _ in logged[0]] == [5, 10, 15, 20]


@pytest.mark.parametrize("kind", ["alternate", "joint"])
def test_the_papers_schedules_resume_inside_a_visit(tmp_path: Path, data: Path, kind: str) -> None:
    """Stopped in the middle of a video's inner iterations, a run goes on where it was."""
    words = (
        f"schedule.kind={kind}", "schedule.clips=1", "schedule.frames=0", "schedule.inner=4",
        "schedule.inner_gamma=3", "schedule.inner_latents=4",
        "latents.optimiser=momentum", "begin.latents=random",
    )  # fmt: skip
    assert train(tmp_path, data, *words, "train.steps=12", name="straight") == 0
    assert train(tmp_path, data, *words, "train.steps=5", name="halves") == 0
    assert train(tmp_path, data, *words, "train.steps=12", name="halves") == 0
    assert not equal(*(tensors(tmp_path / name, 12) for name in ("straight", "halves")))


@pytest.mark.ranks
def test_a_run_of_two_ranks_resumes_on_one(tmp_path: Path, data: Path) -> None:
    """Rows, weights and counters after 2 ranks then 1 are those of 1 rank, to float tolerance."""
    first = launch(tmp_path, data, "train.steps=10", name="moved", ranks=2)
    assert first.returncode == 0, first.stderr
    assert json.loads((tmp_path / "moved" / "run.json").read_text())["starts"][0]["world"] == 2
    assert train(tmp_path, data, "train.steps=20", name="moved") == 0
    assert train(tmp_path, data, "train.steps=20", name="alone") == 0
    moved, alone = (tensors(tmp_path / name, 20) for name in ("moved", "alone"))
    assert moved.keys() == alone.keys()
    for name, tensor in moved.items():
        assert torch.allclose(tensor.double(), alone[name].double(), atol=2e-4, rtol=1e-3), name


def test_the_same_command_on_a_finished_run_does_nothing_more(tmp_path: Path, data: Path) -> None:
    """A finished run is looked at again, not trained again."""
    for _ in range(2):
        assert train(tmp_path, data, "train.steps=4") == 0
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]


def test_dry_run_writes_nothing(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--dry-run prints config, parameters, dictionary, memory and disk, and leaves no trace."""
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run", "preset=weizmann", f"data.manifest={data}"]) == 0
    told = capsys.readouterr().out
    for text in ("lambda_triplet: 0.1", "parameters: ", "3 static rows, 2 transient rows", "MiB"):
        assert text in told
    assert "checkpoints: up to 4 x " in told and " in runs/weizmann-synthetic" in told
    assert main(["--dry-run", "--gpus", "preset=weizmann", f"data.manifest={data}"]) == 0
    assert "memory of each GPU:" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/../../../evil", "..", "", "a/b", "a\nb"])
def test_a_manifest_names_no_other_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    """A set's name is part of its runs' folder; one that leads elsewhere is refused, in a manifest
    from somebody else and when a set is prepared."""
    folder, here = tiny_set(tmp_path / "data", size=32), tmp_path / "a" / "b"
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**facts, "name": name}))
    words = ["--runs", str(here / "runs"), "preset=folder", f"data.manifest={folder}"]
    capsys.readouterr()
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"name {name!r} is not a plain one; prepare" in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    if name:
        with pytest.raises(UserError, match="is not a plain name, as of a folder"):
            Options(source="synthetic", name=name)


def test_help_lists_every_setting_with_its_docstring(capsys: pytest.CaptureFixture) -> None:
    """--help is the reference of settings."""
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "loss.lambda_static=0.01" in told and "Weight of l_static" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.lamda_static=1"], "loss.lamda_static: no such setting; did you mean loss.lambda_"),
        (["train.steps=ten"], "train.steps: 'ten' is not of type int | null"),
        (["train.average=2"], "train.average: 2.0 is not in [0, 1)"),
        (["preset=chairs"], "preset: 'chairs' is none of folder, demo"),
        (["train.precision=bf16"], "train.precision: bf16 on a CPU is tens of times slower"),
        (["latents.static_key=idendity"], "latents.static_key: 'idendity' is none of"),
    ],
)  # fmt: skip
def test_bad_settings_end_with_one_line_and_code_2(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    """Every mistake names the setting; nothing is written."""
    if torch.cuda.is_available() and "precision" in words[0]:
        pytest.skip("this machine has a GPU, where mixed precision is fine")
    assert main(["--runs", str(tmp_path / "runs"), f"data.manifest={data}", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith(f"error: {message}") and "\n" not in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_an_old_gpu_has_no_mixed_precision(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """A GPU that would imitate it, at a fraction of the speed, is named."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    told = f"train.precision: {precision} needs an Ampere GPU or a newer one, which Tesla T4 is not"
    with pytest.raises(UserError, match=told):
        start(threads=1, precision=precision, timeout_seconds=10)


def test_a_launcher_with_a_precision_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Accelerate was asked for would be computed in beside `train.precision`, unseen."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    told = "launch: mixed_precision is bf16 for Accelerate and train.precision is no; launch with"
    with pytest.raises(UserError, match=told):
        start(threads=1, precision="no", timeout_seconds=10)


def test_missing_footage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A manifest that is not there, and none at all."""
    assert main([f"data.manifest={tmp_path}/none"]) == 2
    assert f"{tmp_path}/none/manifest.json" in capsys.readouterr().err
    assert main([]) == 2
    assert "data.manifest: not set" in capsys.readouterr().err


def test_a_run_folder_of_other_footage_is_refused(tmp_path: Path, data: Path) -> None:
    """A run never goes on with other videos than it began with, also where its labels are the same
    and `run.json` is lost: its checkpoints know, too."""
    other = tiny_set(tmp_path / "other", identities=2, actions=2, frames=6, size=32)
    rows = "latents.static_key=identity", "latents.transient_key=action"
    assert train(tmp_path, data, "train.steps=2", *rows) == 0
    for lost in (False, True):
        if lost:
            (tmp_path / "run" / "run.json").unlink()
        again = launch(tmp_path, other, "train.steps=4", *rows)
        assert again.returncode == 2
        assert "trained on other footage" in again.stderr and again.stderr.count("\n") == 1


@pytest.mark.ranks
def test_videos_come_and_go_and_the_rest_keeps_its_rows(tmp_path: Path) -> None:
    """With --change-footage a run goes on, on another number of ranks, with one video more and one
    less; never where no step is left to learn the new one."""
    sizes = {"identities": 3, "actions": 2, "frames": 6, "size": 32}
    whole = tiny_set(tmp_path / "whole", **sizes)
    facts = read_manifest(whole)
    cell = (facts.identities[2], facts.actions[1])
    less = tiny_set(tmp_path / "less", **sizes, hold_out=(cell,))
    assert train(tmp_path, less, "train.steps=4") == 0
    refused = launch(tmp_path, whole, "train.steps=4", "--change-footage")
    assert refused.returncode == 2
    assert "complete at step 4; give it more train.steps" in refused.stderr
    assert open_run(tmp_path / "run").manifest.clips == 5
    more = launch(tmp_path, whole, "train.steps=6", "--change-footage", ranks=2)
    assert more.returncode == 0, more.stderr
    assert open_run(tmp_path / "run").manifest.clips == 6
    assert train(tmp_path, less, "train.steps=8", "--change-footage") == 0
    told = (tmp_path / "run" / "run.json").read_text()
    for counts in ("5 rows kept, 1 new, 0 gone", "5 rows kept, 0 new, 1 gone"):
        assert f"; other footage: static: {counts}; transient: {counts}" in told
    assert train(tmp_path, less, "train.steps=9") == 0


def damaged(folder: Path) -> Path:
    """A set whose first clip has one byte changed, in the middle of its pixels."""
    data = tiny_set(folder, identities=3, actions=2, frames=6, size=32)
    shard = min(data.glob("*.tar"))
    raw = bytearray(shard.read_bytes())
    raw[700] ^= 1
    shard.write_bytes(raw)
    return data


def test_a_damaged_clip_spoils_no_figure(tmp_path: Path) -> None:
    """Visits of one clip, of which one is damaged: steps on it have neither loss nor PSNR, and no
    line tells of a perfect one."""
    words = ("schedule.kind=joint", "schedule.inner=5", "schedule.clips=1", "train.log_steps=1",
             "data.on_damage=quarantine", "train.steps=30")  # fmt: skip
    assert train(tmp_path, damaged(tmp_path / "data"), *words) == 0
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [line.get("psnr") for line in lines if "lr/gamma" in line]
    assert told.count(None) == 5 and len(told) == 30
    assert max(psnr for psnr in told if psnr is not None) < 60


def test_a_damaged_clip_is_left_out_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    """With quarantine a run begins, trains, is judged and shown without the damaged clip, which is
    never taken for a black video."""
    data, folder = damaged(tmp_path / "data"), tmp_path / "run"
    words = ("train.steps=4", "data.on_damage=quarantine", "train.sample_minutes=0.000001")
    assert train(tmp_path, data, *words) == 0
    assert json.loads((folder / "run.json").read_text())["final"]["clips"] == 5
    assert (folder / "report.html").is_file()
    run = open_run(folder)
    with pytest.raises(UserError, match=r"clip 0, bytes .*its bytes have changed"):
        run.real(torch.tensor([1, 0]))
    assert run.sound(range(6)) == [1, 2, 3, 4, 5]
    during = sorted((folder / "samples").glob("step-*.png"))
    assert during
    for sheet in (folder / "samples" / "sheet.png", *during):
        with Image.open(sheet) as picture:  # five videos of two rows
            assert picture.height == 5 * (32 + 2 + 32) + 4 * 10
    near = nearest_clips(run, run.real(torch.tensor([1, 2])))
    assert near.clip_V.tolist() == [1, 2] and near.compared == "5 of 6"
    assert evaluate.main([str(folder), "--no-mcs"]) == 0
    found = json.loads((folder / "evaluation.json").read_text())
    spoiled = run.manifest.videos[int(run.opened.table["video"][0])].name
    assert len(found["videos"]) == 5 and spoiled not in {v["name"] for v in found["videos"]}
    for score in found["scores"]:
        assert score["protocol"]["videos"] == "5 of 6, 1 left out as damaged"


@pytest.mark.ranks
def test_a_damaged_clip_is_named_whichever_rank_reads_it(tmp_path: Path) -> None:
    """Streamed by two ranks, it ends the run as bad input, with shard, clip and bytes."""
    data = damaged(tmp_path / "data")
    words = ("train.steps=8", "data.cache_mib=0", "begin.latents=random", "schedule.clips=6")
    ended = launch(tmp_path, data, *words, ranks=2)
    assert ended.returncode != 0
    assert ended.stderr.count("its bytes have changed") == 1 and "clip 0" in ended.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "user-error"


def test_a_mistake_found_late_leaves_the_folder_free(tmp_path: Path, data: Path) -> None:
    """Settings that cannot be trained do not claim a run's folder for their footage."""
    words = ("train.steps=2", "data.cache_mib=0")
    assert launch(tmp_path, data, *words).returncode == 2
    other = tiny_set(tmp_path / "other", identities=2, actions=2, frames=6, size=32)
    assert train(tmp_path, other, "train.steps=2") == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=1", "seed: the run was trained with 0 and cannot go on with 1"),
        ("schedule.clips=2", "schedule.clips: the run was trained with 3"),
        ("data.shuffle_block=7", "data.shuffle_block: the run was trained with 4096"),
        ("networks.hidden=13", "networks, train.average: not those of the run's checkpoint"),
    ],
)
def test_a_run_goes_on_only_as_what_it_was(
    tmp_path: Path, data: Path, word: str, message: str
) -> None:
    """Another seed, batch or network on the same folder is refused, and the folder is unharmed."""
    assert train(tmp_path, data, "train.steps=2") == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    ended = launch(tmp_path, data, "train.steps=4", word)
    assert ended.returncode == 2 and f"error: {message}" in ended.stderr
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_run_is_read_only_with_its_own_footage(tmp_path: Path) -> None:
    """Other videos in the place of the run's are noticed before a score is made of them."""
    data = tiny_set(tmp_path / "set", identities=2, actions=2, frames=6, size=32)
    assert train(tmp_path, data, "train.steps=2") == 0
    shutil.rmtree(data)
    tiny_set(tmp_path / "set", identities=3, actions=2, frames=6, size=32)
    with pytest.raises(UserError, match="not the footage that"):
        open_run(tmp_path / "run")


LOST_AT_START = """
import sys
import trainer.job
from trainer.main import main

def start(**_):
    raise RuntimeError("connection closed by rank 1")

trainer.job.start = start
sys.exit(main(sys.argv[1:]))
"""


def test_a_rank_that_is_lost_before_the_run_begins_ends_the_others(
    tmp_path: Path, data: Path
) -> None:
    """Code 5 and one line, as at any later time, and nothing of it in the run folder."""
    words = [sys.executable, "-c", LOST_AT_START, *command(tmp_path, data)[2:]]
    ended = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (5, "error: connection closed by rank 1\n")
    assert not list(tmp_path.rglob("run.json"))
