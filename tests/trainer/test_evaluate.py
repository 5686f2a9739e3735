"""Figures of a run agree with a slow calculation, say how they were made, and are never made up."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from tests.support.features import untrained_vgg
from tests.support.outputs import TinyRun, tiny_manifest
from trainer import evaluate, generate, held_out, render, scores, vgg


def offline() -> dict[str, torch.Tensor]:
    raise UserError("VGG16: the download failed")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    """Footage that is 5 grey levels brighter than what the networks make; no web, no weights."""
    tiny = TinyRun(tmp_path / "run", tiny_manifest(), noise=5)
    tiny.config.data.manifest = str(tmp_path / "footage")
    opened = ModuleType("trainer.run")
    opened.open_run = lambda folder, checkpoint="latest": tiny  # pyright: ignore
    monkeypatch.setitem(sys.modules, "trainer.run", opened)
    monkeypatch.setattr(vgg, "_download", offline)
    monkeypatch.delenv(vgg.ENVIRONMENT, raising=False)
    return tiny


@pytest.fixture
def features() -> vgg.Vgg:
    """An untrained VGG16 up to relu3_3."""
    return untrained_vgg()


def value(found: dict, name: str) -> float:
    return next(score["value"] for score in found["scores"] if score["name"] == name)


def test_scores_agree_with_loops_over_videos_and_frames(run: TinyRun, monkeypatch):
    """PSNR, SSIM, FCS and its bound, computed one frame after the other; in parts of four clips."""
    monkeypatch.setattr(render, "CLIPS_AT_ONCE", 4)
    found = evaluate.evaluate(run)  # pyright: ignore
    psnr, ssim, fcs, bound = [], [], [], []
    for clip in range(6):
        real = render.real_clips(run, [clip])[0]  # pyright: ignore
        fake = render.render_clips(run, [clip])[0]  # pyright: ignore
        error = np.mean(
            [(r.astype(float) - f.astype(float)) ** 2 for r, f in zip(real, fake, strict=True)]
        )
        psnr.append(10 * np.log10(255**2 / error))

        def alike(a: np.ndarray, b: np.ndarray) -> float:
            return structural_similarity(a, b, channel_axis=-1, data_range=255)

        ssim.append(np.mean([alike(r, f) for r, f in zip(real, fake, strict=True)]))
        fcs.append(np.mean([alike(fake[0], f) for f in fake]))
        bound.append(np.mean([alike(real[0], r) for r in real]))
    assert value(found, "PSNR") == pytest.approx(np.mean(psnr))
    assert value(found, "SSIM") == pytest.approx(np.mean(ssim))
    assert value(found, "FCS") == pytest.approx(np.mean(fcs))
    score = next(score for score in found["scores"] if score["name"] == "FCS")
    assert score["bound"] == pytest.approx(np.mean(bound))
    assert score["distance"] == pytest.approx(abs(np.mean(bound) - np.mean(fcs)))
    assert [video["psnr"] for video in found["videos"]] == pytest.approx(psnr)


def test_mcs_is_the_distance_of_the_mean_motions(run: TinyRun, features, monkeypatch):
    """Whole selection at once against parts; the card names the weights and the frozen row."""
    whole = evaluate.evaluate(run, vgg=features)  # pyright: ignore
    monkeypatch.setattr(render, "CLIPS_AT_ONCE", 4)
    parts = evaluate.evaluate(run, vgg=features)  # pyright: ignore
    real = torch.from_numpy(render.real_clips(run, range(6)))  # pyright: ignore
    fake = torch.from_numpy(render.render_clips(run, range(6)))  # pyright: ignore
    motion = [
        vgg.features(features, videos).double().diff(dim=1).mean((0, 1)) for videos in (real, fake)
    ]
    expected = float((motion[0] - motion[1]).square().sum().log10())
    assert value(whole, "MCS") == pytest.approx(expected, abs=1e-3)
    assert value(parts, "MCS") == pytest.approx(expected, abs=1e-3)
    card = next(score["protocol"] for score in whole["scores"] if score["name"] == "MCS")
    assert card["weights SHA-256"] == "f" * 64 and "of a frozen first frame" in card
    assert str(vgg.MEAN_RGB) in card["input"]


def test_random_pairs_are_scored_against_the_same_footage(run: TinyRun, features):
    """FCS and MCS of N pairs, with the number and the seed on their cards."""
    found = evaluate.evaluate(run, vgg=features, randoms=5, seed=2)  # pyright: ignore
    static, transient = generate.draw_pairs(run, count=5, seed=2)  # pyright: ignore
    videos = render.render(run, static, transient)  # pyright: ignore
    assert value(found, "FCS, random") == pytest.approx(float(scores.fcs(videos).mean()))
    card = next(s["protocol"] for s in found["scores"] if s["name"] == "MCS, random")
    shown = int((static == transient).sum())  # each video has its rows to itself
    assert card["videos"] == (
        f"5 of 36 random static x transient pairs, seed 2, {shown} of which training shows"
    )


def test_no_more_random_pairs_are_scored_than_there_are(run: TinyRun):
    """All of them once, and the card says so; a seed that numpy refuses is told in one line."""
    found = evaluate.evaluate(run, randoms=99)  # pyright: ignore
    card = next(s["protocol"] for s in found["scores"] if s["name"] == "FCS, random")
    assert card["videos"] == (
        "36 of 36 random static x transient pairs, seed 0, 6 of which training shows"
    )


def test_motions_that_are_equal_have_no_figure(run: TinyRun, features):
    """The logarithm of zero is left out with its reason, and the rest can be written down."""
    run.noise = 0
    found = evaluate.evaluate(run, vgg=features)  # pyright: ignore
    assert found["left_out"] == [{"name": "MCS", "why": evaluate.STILL}]
    assert {score["name"] for score in found["scores"]} == {"PSNR", "SSIM", "FCS"}
    assert "MCS" in evaluate.as_text(found) and json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--random", "3", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["--frechet", "--no-mcs"], "--frechet: needs VGG16 weights"),
        (["--frechet"], "--frechet: needs VGG16 weights"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_scored(
    run: TinyRun, capsys, words: list[str], message: str
):
    """One line, and not even the pictures of the best and the worst are made."""
    assert evaluate.main([str(run.folder), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not run.folder.exists()


def test_every_figure_has_its_card(run: TinyRun):
    """Frames, size, videos, footage and the definition: what must agree before comparing."""
    for score in evaluate.evaluate(run, videos=4)["scores"]:  # pyright: ignore
        assert {"definition", "videos", "clips", "frames", "size", "footage"} <= set(
            score["protocol"]
        )
        assert score["protocol"]["videos"] == "4 of 6"


def test_without_weights_mcs_is_left_out_and_the_way_is_told(run: TinyRun, capsys):
    """No made-up figure; the file and the table say why, and what to do."""
    assert evaluate.main([str(run.folder)]) == 0
    shown = capsys.readouterr().out
    assert "left out" in shown and "--vgg FILE" in shown
    stored = json.loads((run.folder / "evaluation.json").read_text())
    assert [item["name"] for item in stored["left_out"]] == ["MCS"]
    assert "MCS" not in {score["name"] for score in stored["scores"]}
    assert {"best.png", "worst.png"} <= {p.name for p in (run.folder / "samples").iterdir()}


def test_held_out_cells_of_a_store_are_not_left_out_unsaid(run: TinyRun, capsys):
    """Beside a manifest in a store nothing is looked for; the table says what to give."""
    run.config.data.manifest = "s3://footage/chairs"
    assert evaluate.main([str(run.folder), "--no-mcs"]) == 0
    assert "give --held-out URL" in capsys.readouterr().out
    stored = json.loads((run.folder / "evaluation.json").read_text())
    assert {"name": "held-out cells", "why": evaluate.AFAR} in stored["left_out"]


def test_weights_that_were_named_must_be_there(run: TinyRun, tmp_path: Path, capsys):
    """A typing error must not turn into a missing figure."""
    assert evaluate.main([str(run.folder), "--vgg", str(tmp_path / "none.safetensors")]) == 2
    error = capsys.readouterr().err
    assert "none.safetensors" in error and error.count("\n") == 1
    assert not (run.folder / "evaluation.json").exists()


def test_real_weights_are_taken_from_the_environment(
    vgg_file: Path, run: TinyRun, monkeypatch, capsys
):
    """The original VGG16, where this machine has it."""
    monkeypatch.setenv(vgg.ENVIRONMENT, str(vgg_file))
    assert evaluate.main([str(run.folder)]) == 0
    assert "MCS" in capsys.readouterr().out


def held(run: TinyRun, manifest: Manifest, clips: list[int]) -> held_out.HeldOut:
    """Footage of some cells of a full matrix, as rendered by the run's own rows."""
    return held_out.HeldOut(manifest, render.render_clips(run, clips))  # pyright: ignore


@pytest.mark.parametrize("keys", [("identity", "action"), ("video", "video")])
def test_held_out_cells_are_made_of_content_and_motion_of_others(tmp_path: Path, keys):
    """With one row per identity and action the cell is exact; with rows per video it is a mean."""
    full = tiny_manifest()
    trained = tiny_manifest()
    object.__setattr__(trained, "videos", full.videos[:5])
    object.__setattr__(trained, "shards", (trained.shards[0]._replace(clips=5),))
    run = TinyRun(tmp_path, trained, *keys)
    everything = TinyRun(tmp_path, full, "identity", "action")
    missing = tiny_manifest()
    object.__setattr__(missing, "videos", full.videos[5:])
    found = held_out.score_cells(run, held(everything, missing, [5]))  # pyright: ignore
    cell = found["cells"][0]
    assert cell["name"] == "person1/wave2"
    if keys == ("identity", "action"):
        assert (cell["psnr"], cell["pairs"]) == (100.0, 1)
    else:
        assert cell["pairs"] == 2 and cell["psnr"] < 100
    assert cell["nearest_psnr"] < 100 and found["psnr"] == cell["psnr"]


def test_consistency_of_held_out_cells_agrees_with_a_loop(tmp_path: Path):
    """Each cell weighs the same, however many pairs of rows make it; the card names the footage."""
    full, trained, missing = tiny_manifest(), tiny_manifest(), tiny_manifest()
    object.__setattr__(trained, "videos", full.videos[1:5])
    object.__setattr__(trained, "shards", (trained.shards[0]._replace(clips=4),))
    object.__setattr__(missing, "videos", (full.videos[0], full.videos[5]))
    object.__setattr__(missing, "fingerprint", "f" * 64)
    run = TinyRun(tmp_path, trained, "video", "video")
    truth = held(TinyRun(tmp_path, full, "identity", "action"), missing, [0, 5])
    found = held_out.score_cells(run, truth)  # pyright: ignore
    consistency, bound = [], []
    for index, video in enumerate(truth.frames_BTHWC):
        pairs, _ = held_out.new_pairs(run, missing, index, known())  # pyright: ignore
        fakes = render.render(run, *pairs.T)  # pyright: ignore
        consistency.append(np.mean([scores.fcs(fake[None])[0] for fake in fakes]))
        bound.append(scores.fcs(video[None])[0])
    assert found["cells"][0]["pairs"] == 2
    (score,) = held_out.cell_scores(run, truth, found)  # pyright: ignore
    assert score.name == "FCS, held out" and score.value == pytest.approx(np.mean(consistency))
    assert score.distance == pytest.approx(abs(np.mean(consistency) - np.mean(bound)))
    assert score.protocol["footage"] == "tiny, " + "f" * 12


def known(*pairs: tuple[int, int]) -> render.Pairs:
    """A set of these pairs."""
    return render.Pairs(*np.array(pairs, np.int64).reshape(-1, 2).T)


def five_of_six(folder: Path, *keys: str) -> tuple[TinyRun, held_out.HeldOut]:
    """A run of all cells but the last, and footage of the first, which it has, and the last."""
    full, trained, others = tiny_manifest(), tiny_manifest(), tiny_manifest()
    object.__setattr__(trained, "videos", full.videos[:5])
    object.__setattr__(trained, "shards", (trained.shards[0]._replace(clips=5),))
    object.__setattr__(others, "videos", (full.videos[0], full.videos[5]))
    everything = TinyRun(folder, full, "identity", "action")
    return TinyRun(folder, trained, *keys), held(everything, others, [0, 5])


def test_cells_and_pairs_that_were_trained_on_are_not_called_new(tmp_path: Path):
    """A trained cell is skipped with its reason; where all videos share a static row, every pair is
    a training clip's, and nothing is left."""
    found = held_out.score_cells(*five_of_six(tmp_path, "video", "video"))  # pyright: ignore
    assert [cell["name"] for cell in found["cells"]] == ["person1/wave2"]
    assert found["skipped"] == [{"name": "person0/wave0", "why": held_out.TRAINED}]
    assert found["compared"] == "5 of 5"
    with pytest.raises(held_out.NothingNewError, match="static_key=dataset"):
        held_out.score_cells(*five_of_six(tmp_path, "dataset", "video"))  # pyright: ignore


def test_pairs_of_rows_that_some_clip_trains_are_left_out_of_a_cell(tmp_path: Path):
    """Against a set of pairs that says that one of the two was trained."""
    run, others = five_of_six(tmp_path, "video", "video")
    new = partial(held_out.new_pairs, run, others.manifest, 1)  # pyright: ignore
    pairs, why = new(known())
    assert pairs.tolist() == [[3, 2], [4, 2]] and not why
    pairs, why = new(known((3, 2)))
    assert pairs.tolist() == [[4, 2]] and not why
    assert new(known((3, 2), (4, 2)))[1] == held_out.NO_NEW_PAIR


def test_a_set_of_pairs_agrees_with_a_set_of_tuples():
    """Drawn pairs, with absent rows (-1) among those that make the set, and rows asked for that lie
    behind its last one."""
    draw = np.random.default_rng(0)
    static_N, transient_N = draw.integers(-1, 6, 40), draw.integers(-1, 9, 40)
    tuples = {pair for pair in zip(static_N.tolist(), transient_N.tolist(), strict=True)
              if min(pair) >= 0}  # fmt: skip
    asked_P2 = np.stack(np.meshgrid(np.arange(8), np.arange(12)), axis=-1).reshape(-1, 2)
    held = render.Pairs(static_N, transient_N).hold(*asked_P2.T)
    assert held.tolist() == [tuple(pair) in tuples for pair in asked_P2.tolist()]
    assert 0 < held.sum() == len(tuples) < len(asked_P2)
    assert not known().hold(*asked_P2.T).any()


def test_fitting_needs_videos_that_were_held_out(run: TinyRun, capsys) -> None:
    """One line that names the folder and the option."""
    assert evaluate.main([str(run.folder), "--fit", "5"]) == 2
    told = capsys.readouterr().err
    assert told == (
        f"--fit: no {run.config.data.manifest}/held-out; give --held-out DIR, a prepared set of "
        "new videos\n"
    )
    assert evaluate.main([str(run.folder), "--fit", "-1"]) == 2
    assert "--random and --fit at least 0" in capsys.readouterr().err


def test_held_out_cells_of_unknown_labels_are_refused(tmp_path: Path):
    """Nothing shares the identity: there is nothing to make the cell of."""
    run = TinyRun(tmp_path, tiny_manifest())
    other = tiny_manifest()
    object.__setattr__(other, "identities", ("stranger", "other"))
    with pytest.raises(UserError, match="shares an identity"):
        held_out.score_cells(run, held(run, other, list(range(6))))  # pyright: ignore
