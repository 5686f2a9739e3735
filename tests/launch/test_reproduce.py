"""The reproduction: every stage end to end on tiny footage; pure parts against slow code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.errors import UserError
from data_shards.manifest import read_manifest
from launch.reproduce import __main__ as entry
from launch.reproduce import blending, classifier, coding, figures, footage, planner, report, shifts
from launch.reproduce.context import Context, StageResult, from_json, mean_std, to_json
from launch.reproduce.footage import SYNTHETIC, find_sets
from launch.reproduce.planner import Plan
from launch.reproduce.stages import STAGES
from launch.reproduce.stages.compact import Point, at_bytes
from launch.reproduce.stages.unseen import counts_of, split
from launch.reproduce.state import State
from tests.support.training import SMALL
from trainer.main import main as train
from trainer.networks import NavSynth, NetworksConfig

FRAMES = 6
TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
PLAN = Plan(
    None, 1, frames=FRAMES, size=32, videos=4, randoms=4, fit_steps=4, classify_steps=2,
    ranks=((0, "clip"), (10, "clip")),
    words=(*SMALL, "train.steps=3"),
)  # fmt: skip
FACTS = report.Facts("a test", "tiny", "synthetic", "any", "3 steps")


class Trainer:
    """Trains in this process and counts; fails on demand."""

    def __init__(self) -> None:
        self.started = 0
        self.left = 10**6

    def __call__(self, words: list[str], log: Path) -> int:
        self.started += 1
        self.left -= 1
        return train(words) if self.left >= 0 else 1


def videos(count: int, *, frames: int = FRAMES, size: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth moving footage: uint8 (count, frames, size, size, 3)."""
    draw = np.random.default_rng(seed)
    phase = draw.uniform(0, 6, (count, 1, 1, 1, 3))
    time = np.arange(frames).reshape(1, -1, 1, 1, 1)
    x, y = (np.arange(size).reshape(shape) for shape in ((1, 1, 1, -1, 1), (1, 1, -1, 1, 1)))
    return (127 + 100 * np.sin(phase + 0.4 * x + 0.2 * y + 0.5 * time)).astype(np.uint8)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Trainer, list[Path]]:
    """Every stage, once interrupted by a training that fails and then run again."""
    out, trainer = tmp_path_factory.mktemp("reproduce"), Trainer()
    context = Context(out, (TINY,), PLAN, None, "no weights in this test", trainer)
    trainer.left = 5
    with pytest.raises(UserError, match="ended with code 1"):
        entry.reproduce(context, STAGES, FACTS)
    trainer.left = 10**6
    return context, trainer, entry.reproduce(context, STAGES, FACTS, publish=out / "docs")


def test_an_interrupted_reproduction_goes_on_and_trains_nothing_twice(done) -> None:
    """Trainings are those that the planner counts, plus the one that failed; again, none."""
    context, trainer, _ = done
    needed = sum(stage.trainings(context.sets, context.plan) for stage in STAGES.values())
    assert trainer.started == needed + 1
    entry.reproduce(context, STAGES, FACTS)
    assert trainer.started == needed + 1


def test_another_plan_runs_a_stage_again_and_keeps_its_trainings(done) -> None:
    """A stage's result depends on its inputs; equal trainings are found by their settings."""
    context, trainer, _ = done
    before, name = trainer.started, "random_latents"
    kept = State(context.out)
    other = replace(context, plan=replace(context.plan, randoms=3))
    from launch.reproduce.state import inputs_of, run_stage

    assert kept.result(name, inputs_of(other, name)) is None
    run_stage(other, kept, name, STAGES[name])
    assert trainer.started == before


def test_the_report_has_every_stage_with_cards_and_says_what_is_missing(done) -> None:
    """Markdown and HTML hold all tables with their protocol, verdicts, and why MCS is missing."""
    context, _, files = done
    text, page = (files[i].read_text() for i in (0, 1))
    for stage in STAGES.values():
        assert f"## {stage.title}" in text and stage.title in page
    assert text.count("Protocol: ") == text.count("\n### ")
    assert "no MCS rows: no weights in this test" in text
    assert "holds**" in text and "hold" in page
    published = files[2].read_text()
    links = [part.split(")")[0] for part in published.split("](")[1:]]
    assert links and all((files[2].parent / link).is_file() for link in links)
    stages = json.loads((context.out / "state.json").read_text())["stages"]
    assert all(from_json(s["result"]).tables or s["result"]["pictures"] for s in stages.values())


def test_results_survive_as_json() -> None:
    """Infinite figures become dashes; everything else comes back equal."""
    from launch.reproduce.context import Claim, Picture, Table

    table = Table("t", ("a", "b"), (("x", float("inf")), ("y|z", 1.5)), {"k": "v"})
    result = StageResult((table,), (Claim("c", None, "d"),), (Picture("p", "f.png"),), ("n",))
    back = from_json(json.loads(json.dumps(to_json(result), allow_nan=False)))
    assert back.tables[0].rows == (("x", None), ("y|z", 1.5))
    assert back._replace(tables=()) == result._replace(tables=())
    assert "y\\|z" in report.markdown({"s": ("title", back)}, FACTS)


def test_a_budget_is_divided_over_its_trainings_and_too_small_a_one_is_refused() -> None:
    """All trainings together with their overhead take the trainings' share of the budget."""
    each = planner.divide(30, 20)
    assert 20 * (each + planner.OVERHEAD_MINUTES) == pytest.approx(30 * planner.SHARE)
    with pytest.raises(UserError, match="too few"):
        planner.divide(1, 20)
    assert mean_std([1.0, 3.0], digits=1) == "2.0 ± 1.4" and mean_std([]) is None


def test_data_sets_are_found_by_their_layout(tmp_path: Path) -> None:
    """Known folders give sets, synthetic footage is always there, nothing known is an error."""
    (tmp_path / "weizmann_strips").mkdir()
    (tmp_path / "rendered_chairs").mkdir()
    names = [s.name for s in find_sets(str(tmp_path))]
    assert names == ["synthetic", "chairs", "weizmann_strips"]
    with pytest.raises(UserError, match="holds none of"):
        find_sets(str(tmp_path / "rendered_chairs"))
    assert entry.main(["--budget", "1h"]) == 2 and entry.main(["--stages", "none"]) == 2


def test_held_out_cells_leave_every_label_and_splits_share_no_video(done) -> None:
    """A matrix loses a diagonal; videos are fitted or trained on, never both."""
    context, _, _ = done
    facts = read_manifest(context.out / "data" / "synthetic-all")
    cells = footage.cells_of(facts, 3)
    left = {(facts.identities[v.identity], facts.actions[v.action]) for v in facts.videos}
    left -= set(cells)
    assert len(cells) == 3 and len({i for i, _ in left}) == 3 and len({a for _, a in left}) == 2
    for kind in ("videos", "actions", "identities"):
        kept, new = split(facts, kind)
        assert kept and new and sorted(kept + new) == sorted(v.name for v in facts.videos)
    assert counts_of(32, several=True) == [8, 16, 32] and counts_of(32, several=False) == [32]


def test_reference_rows_agree_with_slow_code() -> None:
    """Frozen, blurred and noisy footage are what they say, pixel by pixel in the middle."""
    real = videos(2)
    assert (figures.frozen(real) == real[:, :1]).all()
    blur = figures.blurred(real)
    patch = real[1, 2, 6:11, 4:9].astype(float).mean(axis=(0, 1))
    assert np.abs(blur[1, 2, 8, 6] - patch).max() <= 0.5 + 1e-9
    noise = figures.noisy(real).astype(float) - real
    assert noise.std() == pytest.approx(figures.NOISE_SD, rel=0.1)
    found = figures.references(real, vgg=None)
    assert found["frozen first frame"].fcs == pytest.approx(1)
    assert found["bound (real videos)"].fcs < 1


def test_the_best_shift_is_that_of_a_slow_search() -> None:
    """A video moved by two frames is found again, and the nearest one among others is it."""
    long = videos(1, frames=10)[0]
    real, moved = long[2:8], long[0:6]
    found = shifts.best_shift(moved, real)
    assert (found.psnr, found.shift) == (100.0, 2) and found.ssim == pytest.approx(1)
    slow = {}
    for shift in range(-3, 4):
        pairs = [(t + shift, t) for t in range(6) if 0 <= t + shift < 6]
        errors = [np.square(moved[a].astype(float) - real[b]).mean() for a, b in pairs]
        slow[shift] = np.mean(errors)
    assert min(slow, key=lambda shift: slow[shift]) == 2 and slow[2] == 0
    others = np.stack([videos(1, seed=5)[0], moved])
    assert shifts.nearest_video(real, others) == found


def test_in_between_codes_agree_with_one_step_at_a_time() -> None:
    """Every way to blend, frame by frame, gives the codes that the batched way does."""
    torch.manual_seed(0)
    config = NetworksConfig(hidden=7, channels=8)
    networks = NavSynth(config, static=3, transient=5, size=32).eval().requires_grad_(False)
    codes = torch.randn(2, 4, 5)
    cell = networks.motion
    for clip in range(2):
        for gap in range(3):
            middle = (codes[clip, gap] + codes[clip, gap + 1]) / 2
            before, _ = cell.gru(codes[clip : clip + 1, : gap + 1])
            step, _ = cell.gru(middle[None, None], before[:, -1:].transpose(0, 1).contiguous())
            expected = cell.head(step[0, 0])
            assert torch.allclose(blending.by_step(networks, codes)[clip, gap], expected, atol=1e-6)
    long = blending.by_sequence(networks, codes)
    whole = torch.stack([codes[0, 0], (codes[0, 0] + codes[0, 1]) / 2])[None]
    assert torch.allclose(long[0, 0], cell(whole)[0, 1], atol=1e-6)
    images = blending.generated(networks, torch.randn(2, 3), codes, "codes")
    assert images.shape == (2, 3, 3, 32, 32)
    real = videos(1)
    expected = [(real[0, g].astype(int) + real[0, g + 1]) / 2 for g in range(FRAMES - 1)]
    assert np.abs(blending.blended(real)[0] - np.stack(expected)).max() <= 0.5


def test_stored_latents_cost_what_they_say_and_lose_little() -> None:
    """Bytes and errors of every form; a matrix of rank two needs two directions."""
    torch.manual_seed(0)
    matrix = torch.randn(16, 2) @ torch.randn(2, 50) / 10
    assert coding.as_float32(matrix).bytes == 3200 and coding.as_float16(matrix).bytes == 1600
    whole = coding.as_int8(matrix)
    assert whole.bytes == 16 * (50 + 2)
    peak = matrix.abs().amax(dim=1, keepdim=True)
    assert ((whole.values - matrix).abs() <= 0.51 * peak / 127 + 1e-6).all()
    low = coding.as_rank(2)(matrix)
    assert low.bytes == 2 * 2 * (16 + 50) and torch.allclose(low.values, matrix, atol=1e-2)
    assert coding.as_rank(8)(torch.randn(50)).bytes == 100
    points = [Point("a", 100, 20), Point("b", 10000, 40)]
    assert at_bytes(points, 1000) == pytest.approx(30) and at_bytes(points, 99) is None


def test_codecs_give_back_the_video() -> None:
    """More bytes come with a better picture, for stills and for films."""
    video = videos(1, size=32)[0]
    for pair in (
        [coding.jpeg(video, quality=q) for q in (5, 90)],
        [coding.h264(video, crf=c) for c in (48, 20)],
    ):
        errors = [np.square(one.frames_THWC.astype(float) - video).mean() for one in pair]
        assert pair[0].bytes < pair[1].bytes and errors[0] > errors[1]
        assert pair[1].frames_THWC.shape == video.shape


def test_judges_learn_what_they_see_and_action_sees_no_still_picture() -> None:
    """Colours are told apart by the identity judge; a still video is all zeros to the other."""
    still = np.zeros((8, 3, 32, 32, 3), np.uint8)
    still[::2, ..., 0] = 220
    still[1::2, ..., 2] = 220
    labels = np.arange(8) % 2
    assert not classifier.look(still, "action").any()
    judge = classifier.train_judge(still, labels, "identity", classes=2, steps=20)
    again = classifier.train_judge(still, labels, "identity", classes=2, steps=20)
    assert classifier.accuracy(judge, still, labels) == 1
    state = again.network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in judge.network.state_dict().items())
