"""The dictionary becomes files: by name, by chance, recombined and in between."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data_shards.errors import UserError
from tests.support.outputs import FRAMES, TinyRun, tiny_manifest
from trainer import generate, render, summary

HOSTILE = ["<script>alert(1)</script>", "../../etc/passwd", "a b", "a_b"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    """A tiny run that `open_run` finds."""
    tiny = TinyRun(tmp_path / "run", tiny_manifest(), "identity", "action")
    opened = ModuleType("trainer.run")
    opened.open_run = lambda folder, checkpoint="latest": tiny  # pyright: ignore
    monkeypatch.setitem(sys.modules, "trainer.run", opened)
    return tiny


def generate_files(run: TinyRun, *arguments: str) -> list[str]:
    assert generate.main([str(run.folder), *arguments]) == 0
    return sorted(path.name for path in (run.folder / "samples").iterdir())


def test_a_clip_is_rendered_from_its_own_rows(run: TinyRun):
    """`render_clips` of a clip is the networks' output for its static and transient row."""
    expected = run.real(torch.tensor([4])).movedim(2, -1).numpy()
    assert (render.render_clips(run, [4]) == expected).all()  # pyright: ignore


def test_rendering_in_parts_changes_nothing(run: TinyRun, monkeypatch: pytest.MonkeyPatch):
    """A few clips at a time or all at once."""
    whole = render.render_clips(run, list(range(6)))  # pyright: ignore
    monkeypatch.setattr(render, "CLIPS_AT_ONCE", 4)
    assert (render.render_clips(run, list(range(6))) == whole).all()  # pyright: ignore


def test_a_sheet_is_written(run: TinyRun):
    """Six videos, two rows each."""
    assert generate_files(run, "sheet") == ["sheet.png"]
    with Image.open(run.folder / "samples" / "sheet.png") as sheet:
        assert sheet.height == 6 * (24 + 2 + 24) + 5 * 10


def test_reconstruct_takes_names_and_all(run: TinyRun, tmp_path: Path):
    """A GIF and an MP4 of each video asked for, here or elsewhere."""
    files = generate_files(run, "reconstruct", "--videos", "person0/wave1")
    assert [name.rsplit(".", 1)[1] for name in files] == ["gif", "mp4"]
    elsewhere = tmp_path / "out"
    arguments = ["--out", str(elsewhere), "reconstruct", "--videos", "all"]
    assert generate.main([str(run.folder), *arguments]) == 0
    assert len(list(elsewhere.iterdir())) == 12


def test_shared_options_may_stand_on_both_sides_of_the_command(run: TinyRun, tmp_path: Path):
    """Before it, behind it (which counts where both are given), and not at all."""
    first, last = str(tmp_path / "first"), str(tmp_path / "last")
    for before, behind, folder in (
        (["--out", first], [], first), ([], ["--out", last], last),
        (["--out", first, "--fps", "4"], ["--out", last], last),
    ):  # fmt: skip
        assert generate.main([str(run.folder), *before, "sheet", "--count", "2", *behind]) == 0
        assert (Path(folder) / "sheet.png").is_file()
        (Path(folder) / "sheet.png").unlink()
    assert generate_files(run, "sheet") == ["sheet.png"]


def test_hostile_names_stay_in_the_folder(tmp_path: Path):
    """Every name becomes a plain file name, and different names different files."""
    slugs = [generate._slug(name) for name in HOSTILE]
    assert len(set(slugs)) == len(HOSTILE)
    assert all(Path(slug).name == slug and not slug.startswith(".") for slug in slugs)


def test_the_same_seed_draws_the_same_pairs_and_no_pair_twice(run: TinyRun):
    """Six pairs of two identities and three actions are all there are; more than six repeat."""
    static, transient = generate.draw_pairs(run, count=6, seed=3)  # pyright: ignore
    assert len(set(zip(static.tolist(), transient.tolist(), strict=True))) == 6
    again = generate.draw_pairs(run, count=6, seed=3)  # pyright: ignore
    assert (again[0] == static).all() and (again[1] == transient).all()
    assert len(generate.draw_pairs(run, count=50, seed=3)[0]) == 50  # pyright: ignore


def test_only_trained_rows_are_drawn(tmp_path: Path):
    """An action that no clip has (its videos were rejected) has a row, but nothing was learned."""
    manifest = tiny_manifest(["a", "b"], identities=2)
    object.__setattr__(manifest, "actions", ("wave0", "never seen"))
    run = TinyRun(tmp_path, manifest, "identity", "action")
    _, transient = generate.draw_pairs(run, count=20, seed=0)  # pyright: ignore
    assert set(transient.tolist()) == {0}


def test_sample_and_recombine_write_stills_and_films(run: TinyRun):
    """One sheet, one GIF and one MP4 each."""
    assert len(generate_files(run, "sample", "--count", "5")) == 3
    files = generate_files(run, "recombine", "--static", "person0/wave0", "person1/wave2")
    assert {"recombine.png", "recombine.gif", "recombine.mp4"} <= set(files)


def test_random_writes_n_videos_and_their_table(run: TinyRun):
    """The table names the rows that made each file."""
    files = generate_files(run, "random", "--count", "4", "--seed", "1")
    assert files == [*(f"random-{i:05d}.mp4" for i in range(4)), "random.csv"]
    with (run.folder / "samples" / "random.csv").open() as table:
        lines = list(csv.DictReader(table))
    assert [line["file"] for line in lines] == [f"random-{i:05d}.mp4" for i in range(4)]
    static, transient = generate.draw_pairs(run, count=4, seed=1)  # pyright: ignore
    assert [int(line["static row"]) for line in lines] == static.tolist()
    assert lines[0]["transient"] == f"wave{transient[0]}"
    with av.open(str(run.folder / "samples" / "random-00000.mp4")) as film:
        assert len(list(film.decode(video=0))) == 3 * FRAMES


def test_interpolation_blends_the_two_codes(run: TinyRun):
    """With a linear network the frame in the middle is the mean of its neighbours' codes."""
    video = generate.in_between(run, 0, first=2, last=5, k=3)  # pyright: ignore
    assert len(video) == 2 + 3 + (FRAMES - 4)
    own = render.render_clips(run, [0])[0]  # pyright: ignore
    assert (video[:2] == own[:2]).all() and (video[5:] == own[4:]).all()
    blend = own[1].astype(int) * 0.5 + own[4].astype(int) * 0.5
    unclipped = np.all([(own[i] > 0) & (own[i] < 255) for i in (1, 4)], axis=0)
    assert np.abs(video[3] - blend)[unclipped].max() <= 1.5


def test_interpolate_writes_its_files(run: TinyRun):
    """Sheet, GIF and MP4 named after video, frames and k."""
    files = generate_files(run, "interpolate", "--video", "person1/wave0", "--k", "2")
    assert len(files) == 3 and all("2-5-k2" in name for name in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct", "--videos", "person0/wav1"], "did you mean 'person0/wave1'?"),
        (["sheet", "--videos", "x"], "did you mean"),
        (["sheet", "--count", "0"], "--count 0: must be at least 1"),
        (["sample", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["random", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["interpolate", "--video", "person0/wave1", "--between", "5", "2"], "1..8"),
        (["interpolate", "--video", "person0/wave1", "--between", "2", "9"], "1..8"),
    ],
)
def test_mistakes_get_one_line(
    run: TinyRun, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    """Exit code 2, one line on stderr, no traceback."""
    assert generate.main([str(run.folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_video_without_its_label_is_refused(tmp_path: Path):
    """Row -1 means: no such row; it must not wrap around to the last one."""
    manifest = tiny_manifest(["a"], identities=1)
    object.__setattr__(manifest, "videos", (manifest.videos[0]._replace(identity=-1),))
    run = TinyRun(tmp_path, manifest, "identity", "action")
    with pytest.raises(UserError, match="no label"):
        render.render_clips(run, [0])  # pyright: ignore


def test_the_end_of_a_training_is_pictured(run: TinyRun):
    """Sheet, best, worst, wall and curves; the best is no worse than the worst."""
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text('{"step": 1, "psnr": 10}\n{"step": 2, "psnr": 12}\n')
    names = [path.name for path in summary.write_samples(run, count=4)]  # pyright: ignore
    assert names == ["sheet.png", "best.png", "worst.png", "wall.gif", "wall.mp4", "curves.png"]
    assert all((run.folder / "samples" / name).stat().st_size > 100 for name in names)
