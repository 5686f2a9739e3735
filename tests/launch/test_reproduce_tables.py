"""Tables of a reproduction: which random videos are drawn, what is measured, what cards say."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_shards.errors import UserError
from launch.reproduce import draws, figures, judges, trainings
from launch.reproduce.baselines import BASELINES
from launch.reproduce.baselines.__main__ import main as play
from launch.reproduce.context import Cell, Context, Table
from launch.reproduce.figures import Figures
from launch.reproduce.footage import SYNTHETIC, find_sets, read_clips
from launch.reproduce.over_seeds import ONE
from launch.reproduce.planner import Plan
from launch.reproduce.stages import (
    ablation,
    adversarial,
    exchange,
    interpolation,
    presets,
    random_latents,
    sheets,
    unseen,
)
from launch.reproduce.variants import NEW, OWN, TUNED, UNMOVED, VARIANTS, variant
from launch.reproduce.windows import other_windows
from tests.support.features import untrained_vgg
from tests.support.training import SMALL
from trainer import scores
from trainer.distances import CHANNELS
from trainer.frechet import frechet_distance, gaussian_of
from trainer.leaving import DONE, NON_FINITE, RUN_FILE
from trainer.main import main as train
from trainer.run import Run, open_run
from trainer.vgg import features, motion_of

pytestmark = pytest.mark.xdist_group("reproduce_tables")

TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
PLAN = Plan(
    None, 1, frames=6, size=32, videos=8, randoms=8, wall=9, fit_steps=4, classify_steps=2,
    baseline_steps=1, ranks=((0, "clip"), (10, "clip")),
    words=(*SMALL, "train.steps=3", "latents.static_key=identity", "latents.transient_key=action"),
)  # fmt: skip
ALL = "6 of 6 pairs of rows, at random, all of which training shows"


def start(module: str, words: list[str], log: Path) -> int:
    """Train in this process."""
    return play(words) if module == adversarial.MODULE else train(words)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Six synthetic videos, each a cell of three identities and two actions."""
    return Context(tmp_path_factory.mktemp("tables"), (TINY,), PLAN, untrained_vgg(), "", start)


def model(context: Context, name: str) -> Run:
    return open_run(trainings.trained(context, *variant(context, TINY, name, 0)))


def line(table: Table, name: str) -> tuple[Cell, ...]:
    """The columns of `figures.cells` of a row."""
    (row,) = (row for row in table.rows if row[0] == name)
    return row[1 : 1 + len(figures.COLUMNS)]


def pairs(draw: draws.Draw) -> list[tuple[int, int]]:
    return list(zip(draw.static_B.tolist(), draw.transient_B.tolist(), strict=True))


def test_every_pair_of_a_full_matrix_is_a_training_video(context: Context) -> None:
    """Rows by identity and action: random videos are the training videos, and no pair is new."""
    run = model(context, "full")
    draw = draws.random_pairs(run, 99, seed=0)
    assert sorted(pairs(draw)) == [(i, a) for i in range(3) for a in range(2)]
    assert (draw.total, draw.shown, draw.known) == (6, 6, True)
    assert draws.words([draw]) == ALL
    assert draws.is_of_clips(draw, run, range(6)) and not draws.is_of_clips(draw, run, range(5))
    new = draws.new_pairs(run, 99, seed=0)
    assert (len(new.static_B), len(new.transient_B), new.total) == (0, 0, 0)


def test_new_pairs_are_those_that_training_does_not_show(context: Context) -> None:
    """Rows by video: all pairs but a video's own two rows, as the seed draws them; among pairs of
    any kind those that are shown are counted."""
    run = model(context, OWN)
    every = draws.new_pairs(run, 99, seed=0)
    assert sorted(pairs(every)) == [(s, t) for s in range(6) for t in range(6) if s != t]
    assert every.total == 30 and every.shown == 0
    some, again, other = (draws.new_pairs(run, 8, seed=seed) for seed in (0, 0, 1))
    assert len(set(pairs(some))) == 8 and set(pairs(some)) <= set(pairs(every))
    assert pairs(some) == pairs(again) != pairs(other)
    assert draws.words([some]) == "8 of 30 pairs of rows that training does not show, at random"
    mixed = [draws.random_pairs(run, 31, seed=seed) for seed in (0, 1)]
    shown = [sum(s == t for s, t in pairs(draw)) for draw in mixed]
    assert [draw.shown for draw in mixed] == shown and not mixed[0].known
    assert draws.words(mixed) == (
        f"31 of 36 pairs of rows, at random, of which training shows {shown[0]}, {shown[1]} "
        "(by seed)"
    )
    none = mixed[0]._replace(shown=0)
    assert draws.words([none]) == "31 of 36 pairs of rows, at random, none of which training shows"
    rows = np.array([0, 0, 1]), np.array([0, 0, 2])
    assert draws.distinct(run, *rows) == (2, 1)


def test_statistics_of_features_agree_with_slow_code() -> None:
    """MCS by first and last frames of all videos, as `trainer.evaluate` has it; Frechet distances
    frame by frame, of three pairs of neighbours of as many videos as there are real ones."""
    vgg, draw = untrained_vgg(), np.random.default_rng(0)
    real, fake = (draw.integers(0, 256, (n, 9, 16, 16, 3), dtype=np.uint8) for n in (3, 5))
    fake //= 2
    truth = figures.truth_of(real, vgg=vgg)
    found = figures.measure(fake, truth, paired=False)
    expected = scores.mcs(*(motion_of(vgg, torch.from_numpy(x)) for x in (real, fake)))
    assert found.mcs == pytest.approx(expected, abs=1e-3)

    def code(video_THWC: np.ndarray, frame: int) -> torch.Tensor:
        one = features(vgg, torch.from_numpy(video_THWC[None, frame : frame + 1]))[0, 0]
        return one.reshape(CHANNELS, -1).mean(dim=1)

    frames, changes = [], []
    for videos in (real, fake[[0, 2, 4]]):
        singles = [code(video, t) for video in videos for t in (0, 1, 3, 4, 7, 8)]
        steps = [code(v, t + 1) - code(v, t) for v in videos for t in (0, 3, 7)]
        frames.append(gaussian_of(torch.stack(singles)))
        changes.append(gaussian_of(torch.stack(steps)))
    assert found.frames == pytest.approx(frechet_distance(*frames), rel=1e-3)
    assert found.changes == pytest.approx(frechet_distance(*changes), rel=1e-3)
    itself = figures.measure(real, truth)
    assert (itself.psnr, itself.fcs) == (100.0, truth.fcs)
    assert itself.frames is not None and itself.frames < 1e-3 * frechet_distance(*frames)


def test_a_card_defines_the_columns_of_its_table(context: Context) -> None:
    """No more and no less; MCS with what it does not look at."""
    run = model(context, "full")
    columns = ("", "MCS", "PSNR, dB", "steps")
    card = figures.card(run, videos="6", vgg=context.vgg, columns=columns)
    assert card.keys() & figures.DEFINITIONS.keys() == {"MCS", "PSNR"}
    assert "first and last frames only" in card["MCS"]
    every = figures.card(run, videos="6", vgg=context.vgg, columns=ablation.COLUMNS)
    assert figures.DEFINITIONS.keys() <= every.keys()
    for columns in (ablation.RANDOM_COLUMNS, adversarial.COLUMNS):
        assert set(figures.COLUMNS) < set(columns) and "SSIM" not in columns


def test_random_videos_that_are_training_videos_are_named_so(context: Context) -> None:
    """Their figures are those of the training videos, the note says it, no order is judged twice;
    pairs that training does not show are measured and judged."""
    result = ablation.run(context)
    shown, random = result.tables
    for name in VARIANTS:
        assert line(random, name) == line(shown, name)
        assert None not in line(shown, name)
    assert None not in line(random, OWN)
    assert ablation.KNOWN in random.note and ablation.KNOWN not in shown.note
    new = "8 of 30 pairs of rows that training does not show, at random"
    assert random.card["videos"] == f"{ALL}; {OWN}: {new}"
    assert "PSNR" in shown.card and not {"PSNR", "SSIM"} & random.card.keys()
    texts = [claim.text for claim in result.claims]
    assert len(texts) == len(set(texts)) == 8
    assert sum(NEW in text for text in texts) == 2
    assert not any("random videos" in text for text in texts)


def test_baselines_stand_beside_training_videos_and_new_pairs(context: Context) -> None:
    """Two rows of ours, as many videos in every row, and claims for each of them."""
    result = adversarial.run(context)
    (table,) = result.tables
    ours = (adversarial.OURS[True], adversarial.FRESH)
    names = [figures.BOUND, *figures.REFERENCES, *BASELINES, *ours]
    assert [row[0] for row in table.rows] == names
    assert all(None not in line(table, name) for name in names[1:])
    assert table.card["videos"] == (
        f"6 random ones of each baseline, as many as of ours: {ALL}; {adversarial.FRESH}: 6 of 30 "
        "pairs of rows that training does not show, at random"
    )
    assert len(result.claims) == 2 * 2 * len(BASELINES)
    baselines = {path.stem for path in (context.out / "baselines").iterdir()}
    assert len(baselines) == len(BASELINES) and baselines <= context.asked
    (latents,) = random_latents.run(context).tables
    assert latents.card["videos"].startswith(f"+Z: {ALL}; -Z: as many of Gaussian codes")
    assert None not in line(latents, "+Z") + line(latents, "-Z")


def test_classifiers_rate_reference_videos_too(context: Context) -> None:
    """Generated cells, their footage, the same person in another action, and footage that does not
    move, is blurred or noisy; a clip in another action is looked for by hand."""
    shown, rated = exchange.run(context).tables
    names = ["generated", "footage of the cells", "same person, another action"]
    assert [row[0] for row in rated.rows] == [*names, *figures.REFERENCES]
    assert str(shown.rows[-1][-1]).startswith(f"{rated.rows[0][-1]}: ")
    assert "best training video" in shown.card and "best training video" not in rated.card
    clips = read_clips(trainings.whole_set(context, TINY))
    cells = list(zip(clips.identity_N.tolist(), clips.action_N.tolist(), strict=True))
    others = judges.other_actions(clips, clips)
    for index, (person, action) in enumerate(cells):
        at = cells.index((person, 1 - action))
        assert (others[index] == clips.frames_NTHWC[at]).all()
    labels = judges.Labels(clips.identity_N, np.zeros_like(clips.action_N))
    right = labels.right(clips)
    assert right[:, 0].all() and (right[:, 1] == (clips.action_N == 0)).all()


def test_stages_of_one_seed_say_so(context: Context) -> None:
    """In every card; interpolation names its units, and which neighbours are blended."""
    for stage in (exchange, interpolation, unseen):
        tables = stage.run(context).tables
        assert tables and all(table.card["seeds"] == "one (0)" for table in tables)
    result = interpolation.run(context)
    (table,) = result.tables
    assert all(column.endswith(", dB") for column in table.columns[1:-1])
    assert table.columns[-1] == "steps" and [row[-1] for row in table.rows] == ["3", "3", None]
    assert "generated" in table.card["blended neighbours"]
    assert len(result.claims) == 4
    assert [claim.holds is None for claim in result.claims] == [False, False, True, True]


def test_other_windows_say_which_clips_they_are(context: Context, tmp_path: Path) -> None:
    """The second window of each strip, in a card without the figures that are not there."""
    draw = np.random.default_rng(0)
    for number in range(4):
        path = tmp_path / "weizmann_strips" / f"move{number % 2}" / f"person{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 12 * 32, 3), dtype=np.uint8)).save(path)
    strips = find_sets(str(tmp_path))[1]
    table = other_windows(replace(context, out=tmp_path), strips, model(context, "full"))
    assert isinstance(table, Table) and table.card["videos"] == "4 that are long enough"
    assert table.card["clips"].startswith("other windows: the second of each video")
    assert not {"PSNR", "SSIM"} & table.card.keys() and {"MCS", "FCS"} <= table.card.keys()
    assert None not in line(table, "other windows")
    short = replace(context, out=tmp_path / "short", plan=replace(context.plan, frames=7))
    told = other_windows(short, strips, model(context, "full"))
    assert told == "0 of its videos have 14 frames, two windows"
    told = other_windows(context, TINY, model(context, "full"))
    assert told == f"synthetic videos have {context.plan.frames} frames"


def test_the_wall_says_how_many_videos_are_different(context: Context) -> None:
    """Nine pairs of rows by video that training does not show, no two alike; random latents as in
    Tab. 4a; both halves of Fig. 4, and what the left one is."""
    result = sheets.run(context)
    titles = [picture.title for picture in result.pictures]
    (wall,) = (title for title in titles if title.startswith("9 random videos"))
    assert "all different" in wall and wall.endswith(
        f"rows by video, 9 of 30 pairs of rows that training does not show, at random; the full "
        f"model's own rows have but {ALL}"
    )
    for start in ("As in Tab. 4a", "Fig. 4 left", "Fig. 4 right"):
        assert any(title.startswith(start) for title in titles)
    assert result.notes == (sheets.UNMOVED,)


def test_models_of_the_sheets_train_beside_each_other(tmp_path: Path) -> None:
    """Those of all sets at once: each waits until another one runs."""
    meeting, begun = threading.Barrier(2, timeout=60), []

    def meet(module: str, words: list[str], log: Path) -> int:
        name = next(word for word in words if word.startswith("name=")).removeprefix("name=")
        folder = Path(words[words.index("--runs") + 1]) / name
        begun.append(name)
        meeting.wait()
        folder.mkdir(parents=True)
        (folder / RUN_FILE).write_text(json.dumps({"status": DONE.status, "step": 7}))
        return DONE.code

    sets = (TINY, replace(TINY, name="other"))
    plan = replace(PLAN, minutes=1.0, jobs=2, words=())
    context = Context(tmp_path, sets, plan, None, "", meet)
    with pytest.raises(UserError, match="not a run folder"):
        sheets.run(context)
    assert len(begun) == len(set(begun)) == 2 * len({**VARIANTS, **TUNED, **UNMOVED})


def test_what_fails_under_the_papers_rates_is_told_and_leaves_the_others(context: Context) -> None:
    """A training by Tab. 6 that is not finite is a note, and nothing is claimed of it; any other
    training that fails ends the stage."""
    footage = replace(TINY, paper="weizmann")
    fails = "networks.generator=conditional"

    def failing(module: str, words: list[str], log: Path) -> int:
        return NON_FINITE.code if fails in words else start(module, words, log)

    context = replace(context, sets=(TINY, footage), start=failing)
    with pytest.raises(UserError, match=r"-told-.* ended with code 3"):
        presets.run(context)
    fails = "preset=weizmann_paper"
    result = presets.run(context)
    (table,), (note,) = result.tables, result.notes
    names = [figures.BOUND, *figures.REFERENCES, presets.USED, presets.TOLD]
    assert [row[0] for row in table.rows] == names and not result.claims
    assert note.startswith(f"synthetic: {presets.EXACT}: ") and "ended with code 3" in note
    assert all(None not in line(table, name) and row[-1] == 3
               for name, row in zip(names[4:], table.rows[4:], strict=True))  # fmt: skip
    assert table.card["seeds"] == "one (0)"


def trial(psnr: float, passes: float) -> presets.Trial:
    return presets.Trial(Figures(None, 0.9, psnr), 9, 0.5, passes, "4 of 44", 64, "pyramid")


@pytest.mark.parametrize("passes", [0.99, 1.0])
def test_tab_6_is_not_judged_before_it_has_seen_the_footage(passes: float) -> None:
    """Figures are printed, with why; a claim says whether both took the same minutes, and there is
    none of one alone."""
    found = {presets.TOLD: trial(99.0, 300.0), presets.USED: trial(20.1, 300.0),
             presets.EXACT: trial(20.0, passes)}  # fmt: skip
    why = f"less than one pass: {presets.EXACT} saw 4 of 44 videos in 9 steps"
    for timed, length in presets.LENGTHS.items():
        (claim,) = presets.claims_of(TINY, found, timed=timed)
        assert claim.holds is None and claim.text.endswith(f"than Tab. 6, {length}")
        assert claim.detail == f"20.10 dB against 20.00 dB; {why if passes < 1 else ONE}"
    for name in (presets.USED, presets.EXACT):
        rest = {key: one for key, one in found.items() if key != name}
        assert presets.claims_of(TINY, rest, timed=True) == ()
