"""Latents for videos that were not trained on: found with frozen networks, kept, and of use."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.errors import UserError
from tests.support.footage import tiny_set
from tests.support.raw_footage import moving, write_video
from tests.support.training import train
from trainer import evaluate, fit, fitting, generate, render, scores, videos
from trainer.cards import CELLS
from trainer.fitted import extended, read_fitted, read_footage
from trainer.fitting import FitConfig
from trainer.pictures import channels_last
from trainer.run import Run, open_run
from trainer.videos import prepare_videos

QUICK = FitConfig(steps=16, starts=3, check=4, patience=50, frames=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run, and footage with one cell more than it was trained on."""
    folder = tmp_path_factory.mktemp("fit")
    data = tiny_set(folder, identities=3, actions=2, size=32, hold_out=None)
    code = train(folder, data, "train.steps=40")
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    return open_run(home / "run")


def test_distances_agree_with_a_loop_over_pairs() -> None:
    """Squared distances of all pairs at once are those of pairs one after the other, exactly."""
    draw = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(0, 256, (n, 2, 3, 5, 4), generator=draw, dtype=torch.uint8) for n in (3, 4)
    )
    slow = [[int(np.square(a.numpy().astype(int) - b.numpy().astype(int)).sum()) for b in second]
            for a in first]  # fmt: skip
    assert fitting.squared_distances(first, second).tolist() == slow


def test_training_videos_are_their_own_nearest_and_refit_to_at_least_their_quality(
    run: Run,
) -> None:
    """Started from its own rows, a training video never ends below what training reached."""
    clips = np.arange(run.manifest.clips)
    real = run.real(torch.as_tensor(clips))
    rows, near = fitting.fit(run, real, config=QUICK)
    assert near.clip_V.tolist() == clips.tolist() and (near.psnr_V == 100).all()
    own = scores.video_psnr(render.render_clips(run, clips), render.real_clips(run, clips))
    assert (rows.psnr_V.numpy() >= own - 0.01).all()
    assert rows.static_VS.norm(dim=1).max() <= 1 + 1e-6


def test_fitting_improves_every_start_repeats_exactly_and_moves_no_weight(
    run: Run, home: Path
) -> None:
    """Unseen cells gain on their best start; the same seed gives the same bits; networks stay."""
    before = {name: value.clone() for name, value in run.networks.state_dict().items()}
    held = read_footage(run, str(home / "set" / "held-out"), torch.tensor([0]))
    start, _ = fitting.fit(run, held, config=FitConfig(steps=1, starts=3, rate=1e-9))
    first, _ = fitting.fit(run, held, config=QUICK)
    again, _ = fitting.fit(run, held, config=QUICK)
    assert (first.psnr_V > start.psnr_V + 0.1).all()
    assert torch.equal(first.static_VS, again.static_VS)
    assert torch.equal(first.transient_VTM, again.transient_VTM)
    after = run.networks.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_command_keeps_what_it_found_and_generate_takes_it(
    run: Run, home: Path, capsys
) -> None:
    """Fitted videos have rows of their own: rendered from them, recombined, with their footage."""
    data = home / "set" / "held-out"
    words = ["--steps", "8", "--name", "new", "--check", "4"]
    assert fit.main([str(run.folder), str(data), *words]) == 0
    told, count = capsys.readouterr().out, run.manifest.clips
    assert "mean" in told and f"({count} of {count} clips compared)" in told
    fitted = read_fitted(run, "new")
    longer = extended(run, "new")
    name = fitted.facts["videos"][0]["name"]
    clips = render.clips_of(longer, [name, run.manifest.videos[0].name])
    assert clips[0] == run.manifest.clips
    shown, real = render.render_clips(longer, clips), render.real_clips(longer, clips)
    psnr = scores.video_psnr(shown, real)
    assert psnr[0] == pytest.approx(fitted.facts["videos"][0]["psnr"], abs=0.05)
    np.testing.assert_array_equal(shown[1], render.render_clips(run, clips[1:])[0])
    out = home / "pictures"
    base = [str(run.folder), "--out", str(out), "--fitted", "new"]
    assert generate.main([*base, "recombine", "--static", name, "--transient", name]) == 0
    assert (out / "recombine.png").is_file()
    assert generate.main([*base, "explore", "--count", "20"]) == 0
    page = re.search(r'id="data">(.*?)</script>', (out / "explorer.html").read_text(), re.S)
    assert page
    shown, new = json.loads(page[1]), [video["name"] for video in fitted.facts["videos"]]
    assert shown["static"][count:] == shown["transient"][count:] == new
    # Pair n of n, in a square of them: training clips alone are marked as trained on.
    own = [n * (count + len(new) + 1) for n in range(count)]
    assert sorted(map(int, shown["footage"])) == own


def test_the_nearest_is_that_of_a_loop_however_few_are_compared_at_once(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSNR of every pair of videos, one after the other, against all at once and one by one."""
    held = read_footage(run, str(home / "set" / "held-out"), torch.tensor([0]))
    new, count = torch.cat([held, run.real(torch.tensor([1, 0]))]), run.manifest.clips
    trained = render.real_clips(run, range(count))
    slow = np.stack([
        scores.video_psnr(trained, np.broadcast_to(video, trained.shape))
        for video in channels_last(new)
    ])  # fmt: skip
    for decoded in (fitting.DECODED, 1):
        monkeypatch.setattr(fitting, "DECODED", decoded)
        near = fitting.nearest_clips(run, new)
        assert near.clip_V.tolist() == slow.argmax(axis=1).tolist()
        assert near.psnr_V == pytest.approx(np.minimum(slow.max(axis=1), 100.0))
        assert near.compared == f"{count} of {count}"


def test_fitted_videos_keep_their_names_where_rows_are_shared(
    home: Path, tmp_path: Path, capsys
) -> None:
    """One static row for all and a transient row a clip: a fitted row is called as its video; no
    combination of such rows is new, which is an error only where one was asked for."""
    words = ("latents.static_key=dataset", "latents.transient_key=clip", "train.steps=2")
    assert train(tmp_path, home / "set", *words, "train.pictures=false") == 0
    folder, held = str(tmp_path / "run"), str(home / "set" / "held-out")
    assert fit.main([folder, held, "--name", "new", "--steps", "2"]) == 0
    plain = open_run(folder)
    run, count = extended(plain, "new"), plain.manifest.clips
    first = read_fitted(plain, "new").facts["videos"][0]["name"]
    assert generate._pair_names(run, 1, count) == (first, first)
    assert generate._pair_names(run, 0, 0) == (plain.manifest.name, "clip 0")
    assert evaluate.main([folder, "--no-mcs", "--videos", "2"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [item["name"] for item in found["left_out"]] == [CELLS, "MCS"]
    assert evaluate.main([folder, "--no-mcs", "--videos", "2", "--held-out", held]) == 2
    assert "latents.static_key=dataset" in capsys.readouterr().err


def test_video_files_are_cut_as_the_footage_was_and_fitted(
    run: Run, tmp_path: Path, capsys
) -> None:
    """Files of another size become clips of the run's; what cannot be used is told and the rest
    goes on; the same name again takes the other files; generate knows the videos."""
    long, wide = moving(9, height=40, width=48), moving(6, height=40, width=90, shade=60)
    films = [write_video(tmp_path / "a" / "first.mp4", long),
             write_video(tmp_path / "b" / "second.avi", wide),
             write_video(tmp_path / "short.mp4", long[:2])]  # fmt: skip
    quick = ["--steps", "4", "--check", "2", "--name", "films"]
    assert fit.main([str(run.folder), *map(str, films), *quick]) == 0
    told = capsys.readouterr()
    assert "short: left out: " in told.err and "second" in told.out
    names = [video["name"] for video in read_fitted(run, "films").facts["videos"]]
    assert names == ["first", "second"]
    longer = extended(run, "films")
    real = render.real_clips(longer, render.clips_of(longer, names))
    assert real.shape == (2, run.manifest.frames, 32, 32, 3)
    assert fit.main([str(run.folder), str(films[1]), *quick]) == 0
    assert [v["name"] for v in read_fitted(run, "films").facts["videos"]] == ["second"]
    fitted = run.folder / "fitted"
    assert not list(fitted.glob(".videos-*")) and (fitted / "films-footage").is_dir()


def test_how_the_footage_was_cut_is_found_or_the_way_that_is_taken_is_told(
    run: Run, tmp_path: Path, capsys
) -> None:
    """By the folder of the footage and by its manifest.json; without either, a line says so."""
    own = Path(run.config.data.manifest)

    def of(manifest: Path) -> Run:
        data = replace(run.config.data, manifest=str(manifest))
        return replace(run, config=replace(run.config, data=data))

    assert videos._cut(of(own / "manifest.json")) == videos._cut(of(own)) == {
        "crop": 0, "fit": "crop"
    }  # fmt: skip
    assert not capsys.readouterr().err
    assert videos._cut(of(tmp_path)) == {}
    assert f"{tmp_path}: does not tell" in capsys.readouterr().err


def test_fitted_videos_move_with_the_run_and_never_show_other_footage(
    run: Run, tmp_path: Path
) -> None:
    """Footage of a moved run is found; where other footage has taken its place, a call that was
    interrupted before it wrote latents, the latents are refused."""
    films = [write_video(tmp_path / f"{name}.mp4", moving(9, shade=shade))
             for name, shade in (("one", 20), ("two", 90))]  # fmt: skip
    quick = ["--steps", "2", "--name", "moved"]
    assert fit.main([str(run.folder), str(films[0]), *quick]) == 0
    shutil.copytree(run.folder, tmp_path / "elsewhere")
    there = open_run(tmp_path / "elsewhere")
    shutil.rmtree(run.folder / "fitted" / "moved-footage")
    longer = extended(there, "moved")
    assert render.real_clips(longer, render.clips_of(longer, ["one"])).shape[0] == 1
    prepare_videos(there, [str(films[1])], name="moved")
    longer = extended(there, "moved")
    with pytest.raises(UserError, match=r"moved-footage: is not the footage that the latents were"):
        render.real_clips(longer, render.clips_of(longer, ["one"]))
    assert fit.main([str(run.folder), str(films[0]), *quick, "--seed", "-1"]) == 2


def test_words_that_are_neither_videos_nor_one_set_are_refused(
    run: Run, home: Path, tmp_path: Path, capsys
) -> None:
    """A mixture, a file that is not there, two videos of one name, none that is long enough."""
    data, film = str(home / "set" / "held-out"), str(tmp_path / "film.mp4")
    short = str(write_video(tmp_path / "short.mp4", moving(2)))
    for words, message in (
        ([data, film], f"{data}, {film}: give video files, or one prepared set"),
        ([film], f"{film}: no such file"),
        ([short, str(tmp_path / "b" / "short.mov")], "short: two videos have this name; rename "),
        ([short], "no usable video"),
    ):
        assert fit.main([str(run.folder), *words, "--steps", "2", "--name", "none"]) == 2
        assert message in capsys.readouterr().err
    assert fit.main([str(run.folder), short, "--name", "../out"]) == 2
    assert "not a name for fitted videos" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(run: Run, home: Path, tmp_path: Path, capsys) -> None:
    """Other sizes, unknown videos and sets, and latents of another step are named in one line."""
    other = tiny_set(tmp_path, size=64)
    assert fit.main([str(run.folder), str(other)]) == 2
    assert "height is 64" in capsys.readouterr().err
    data = home / "set" / "held-out"
    assert fit.main([str(run.folder), str(data), "--videos", "nobody"]) == 2
    assert "did you mean" in capsys.readouterr().err
    with pytest.raises(UserError, match="not a name for fitted videos"):  # before all else
        fit.fit_set(run, str(data), name="../out", videos=["nobody"], config=QUICK)
    with pytest.raises(UserError, match=r"run trainer.fit first|there are"):
        read_fitted(run, "other")
    assert fit.main([str(run.folder), str(data), "--steps", "2", "--name", "old"]) == 0
    path = run.folder / "fitted" / "old.json"
    path.write_text(path.read_text().replace(f'"step": {run.step}', '"step": 1'))
    with pytest.raises(UserError, match="fit again"):
        read_fitted(run, "old")
