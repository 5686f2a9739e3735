"""The reproduction: every stage end to end on tiny footage; pure parts against slow code."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from data_shards.errors import UserError
from data_shards.manifest import read_manifest
from data_shards.sources import synthetic
from launch.reproduce import __main__ as entry
from launch.reproduce import (
    blending,
    classifier,
    coding,
    figures,
    footage,
    planner,
    report,
    shifts,
    trainings,
    variants,
    verdicts,
)
from launch.reproduce.baselines import BASELINES
from launch.reproduce.baselines.__main__ import main as play
from launch.reproduce.context import (
    Context,
    Stage,
    StageResult,
    from_json,
    makers,
    mean_std,
    to_json,
)
from launch.reproduce.footage import SYNTHETIC, find_sets
from launch.reproduce.lives import Lives
from launch.reproduce.pacing import Pacing
from launch.reproduce.planner import Need, Plan
from launch.reproduce.stages import STAGES, adversarial, presets, unseen
from launch.reproduce.stages.compact import Point, at_bytes
from launch.reproduce.stages.unseen import counts_of, split
from launch.reproduce.state import State
from tests.support.features import untrained_vgg
from tests.support.training import SMALL
from trainer.config import resolve
from trainer.main import main as train
from trainer.networks import NavSynth, NetworksConfig
from trainer.presets import PRESETS

pytestmark = pytest.mark.xdist_group("reproduce")

FRAMES = 6
TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
PLAN = Plan(
    None, 1, frames=FRAMES, size=32, videos=4, randoms=4, wall=4, fit_steps=4, classify_steps=2,
    baseline_steps=1, ranks=((0, "clip"), (10, "clip")),
    words=(*SMALL, "train.steps=3"),
)  # fmt: skip
FACTS = report.Facts("a test", "tiny", "synthetic", "any", "3 steps")


class Trainer:
    """Trains in this process and counts ours; one of ours fails on demand."""

    def __init__(self) -> None:
        self.started = 0
        self.left = 10**6

    def __call__(self, module: str, words: list[str], log: Path) -> int:
        if module == adversarial.MODULE:
            return play(words)
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
    """Trainings are those that the planner counts, plus the one that failed; again, none. The
    report says which the first life began: five, the one that failed, and the baselines."""
    context, trainer, files = done
    ours = {name: stage for name, stage in STAGES.items() if name != "adversarial"}
    needed = sum(stage.trainings(TINY, context.plan) for stage in ours.values())
    baselines = list((context.out / "baselines").glob("*.safetensors"))
    assert len(baselines) == STAGES["adversarial"].trainings(TINY, context.plan)
    assert trainer.started == needed + 1
    names, begun = needed + len(baselines), 5 + 1 + len(baselines)
    text = f"{names - begun} made by this life, {begun} begun by earlier lives of this run\n"
    assert f"- trainings: {names}: {text}" in files[2].read_text()
    entry.reproduce(context, STAGES, FACTS)
    assert trainer.started == needed + 1


def test_another_plan_runs_a_stage_again_and_keeps_its_trainings(done) -> None:
    """A stage's result depends on its inputs; equal trainings are found by their settings."""
    context, trainer, _ = done
    before, name = trainer.started, "random_latents"
    kept, lives = State(context.out), Lives(context.out)
    other = replace(context, plan=replace(context.plan, randoms=3))
    from launch.reproduce.state import inputs_of, run_stage

    assert kept.result(name, inputs_of(other, name)) is None
    run_stage(other, kept, lives, name, STAGES[name])
    assert trainer.started == before
    assert lives.before(name) > 0 and lives.before("compact") == 0


def test_real_footage_and_features_fill_every_row(done, tmp_path: Path) -> None:
    """Strips of two windows a video: MCS beside reference rows, other windows under a card of their
    own, claims on MCS judged, as many videos of the baselines as of ours; Tab. 6 learns from
    random windows and is measured on the same clips."""
    root = tmp_path / "weizmann_strips"
    for number, video in enumerate(videos(6, frames=2 * FRAMES, size=32)):
        path = root / f"move{number % 2}" / f"person{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(list(video), axis=1)).save(path)
    (strips,) = (s for s in find_sets(str(tmp_path)) if s.root)
    strips = replace(strips, preset="folder", held_out=1)
    context = replace(done[0], out=tmp_path / "out", sets=(strips,), vgg=untrained_vgg())
    context.out.mkdir()
    names = ("ablation", "adversarial", "random_latents", "exchange", "presets")
    found = {name: STAGES[name].run(context) for name in names}
    tables = {t.title: t for result in found.values() for t in result.tables}
    scored = [t for t in tables.values() if "MCS" in t.columns]
    assert len(scored) == 6
    for table in scored:
        lines = {row[0]: row for row in table.rows}
        at = table.columns.index("MCS")
        assert {figures.BOUND, *figures.REFERENCES} <= lines.keys()
        missing = [name for name, row in lines.items() if row[at] is None]
        assert [name for name in missing if "(paper)" not in str(name)] == [figures.BOUND]
        assert all(len(row) == len(table.columns) for row in table.rows)
    windows = tables["Other windows of the real videos: weizmann_strips"].card
    trained = tables["Tab. 2 and 4b: weizmann_strips"].card
    assert windows["footage"] != trained["footage"] and windows["videos"] != trained["videos"]
    played = tables["Tab. 2, baselines trained here: weizmann_strips"].card["videos"]
    assert played.startswith("4 random ones of each baseline, as many as of ours: 4 of ")
    claims = [c for name in ("ablation", "adversarial") for c in found[name].claims]
    assert sum("MCS" in c.text and c.holds is not None for c in claims) >= 2
    card = tables["Tab. 3 and Fig. 6, action exchange: weizmann_strips"].card
    assert card["best training video"].startswith("of 10 windows of the training videos")
    exact = tables["Tab. 6: weizmann_strips"]
    assert [row[0] for row in exact.rows[4:]] == [presets.USED, presets.TOLD, presets.EXACT]
    assert all(row[-1] == 3 for row in exact.rows[4:]) and not found["presets"].notes
    told = "Tab. 6 to the letter: preset weizmann_paper, random windows of whole videos"
    assert exact.card["training"].endswith(f"; {told}, networks.channels=64")
    assert read_manifest(context.out / "data" / "weizmann_strips-whole").windows == "whole"


def test_the_report_has_every_stage_with_cards_and_says_what_is_missing(done) -> None:
    """Markdown and HTML hold all tables with their protocol, verdicts, and why MCS is missing."""
    context, _, files = done
    text, page = (files[i].read_text() for i in (0, 1))
    for stage in STAGES.values():
        assert f"## {stage.title}" in text and stage.title in page
    assert text.count("Protocol: ") == text.count("\n### ")
    assert "no MCS rows: no weights in this test" in text
    for verdict in ("does not hold", "not judged"):
        assert f"**{verdict}**" in text and f">{verdict}</td>" in page
    published = files[2].read_text()
    links = [part.split(")")[0] for part in published.split("](")[1:]]
    assert links and all((files[2].parent / link).is_file() for link in links)
    stages = json.loads((context.out / "state.json").read_text())["stages"]
    found = {name: from_json(stage["result"]) for name, stage in stages.items()}
    assert found["presets"].notes == ("none of the paper's data sets is there",)
    assert all(r.tables or r.pictures for name, r in found.items() if name != "presets")
    tables = [t for s in stages.values() for t in from_json(s["result"]).tables]
    assert all(len(row) == len(t.columns) for t in tables for row in t.rows)
    facts = {"frames", "size", "footage", "videos"}
    assert all(facts <= t.card.keys() for t in tables)


def test_results_survive_as_json() -> None:
    """Infinite figures become dashes; everything else comes back equal."""
    from launch.reproduce.context import Claim, Picture, Table

    table = Table("t", ("a", "b"), (("x", float("inf")), ("y|z", 1.5)), {"k": "v"})
    result = StageResult((table,), (Claim("c", None, "d"),), (Picture("p", "f.png"),), ("n",))
    back = from_json(json.loads(json.dumps(to_json(result), allow_nan=False)))
    assert back.tables[0].rows == (("x", None), ("y|z", 1.5))
    assert back._replace(tables=()) == result._replace(tables=())
    assert "y\\|z" in report.markdown({"s": ("title", back)}, FACTS)


def test_a_claim_that_fails_comes_with_its_likely_cause(done) -> None:
    """The order of the ablation against a slow look; causes where a claim does not hold or is not
    settled."""
    from launch.reproduce.context import Claim
    from launch.reproduce.figures import Figures

    found = {name: [Figures(None, 0.5, 20.0 + number)] * 3
             for number, name in enumerate(variants.VARIANTS)}  # fmt: skip
    steps = {name: [100 + number] * 3 for number, name in enumerate(variants.VARIANTS)}
    rows = variants.Rows({}, found, found, steps, {}, {})

    def order(**given: list[float]) -> Claim:
        values = {name: given.get(short, high) for name, (short, _) in variants.VARIANTS.items()}
        return verdicts.order("t", values, rows, digits=1)

    low, high = [1.0, 1.2, 1.4], [2.0, 2.2, 2.4]
    first = order(full=low)
    assert first.holds and report.explained(first) == first.detail
    other = order(bare=low)
    assert other.holds is False
    assert "at 23.0 dB with all losses and at 20.0 dB with -l_triplet" in report.explained(other)
    near = order(full=[1.1, 1.3, 1.5], triplet=low)
    assert near.holds is None
    assert near.detail.endswith(f"+l_triplet -l_static and full are {verdicts.TIE}")
    ahead = order(full=low, triplet=[1.1, 1.3, 1.5])
    assert ahead.holds is None and ahead.detail.endswith(f"are {verdicts.TIE}")
    alone = order(full=[2.0], bare=[1.0])
    assert alone.holds is None and alone.detail.endswith(f"; {verdicts.ONE}")
    assert report.explained(Claim("t", None, "d", "c")) == "d; likely cause: c"
    assert near.cause == verdicts.SAME and not alone.cause and not other.cause
    files = done[2]
    assert "likely cause" in files[0].read_text() and "likely cause" in files[1].read_text()


def test_stages_by_themselves_count_the_models_that_they_make() -> None:
    """The first that looks at a model of the ablation makes it, and all look at equal ones: none is
    counted twice, and none is forgotten because others are there."""
    plan, sets = Plan(1.0, 3), (TINY,)
    chosen = {name: STAGES[name] for name in ("random_latents", "compact", "sheets")}
    made = makers(chosen, sets, plan)
    name = TINY.name
    assert made == {"random_latents": {name: 3}, "compact": {name: 0}, "sheets": {name: 4}}
    need = chosen["random_latents"].need(sets, plan, made["random_latents"])
    assert (need.units, need.fixed) == (3, True)
    assert chosen["compact"].need(sets, plan, made["compact"]).units == 0
    still = len(variants.UNMOVED)
    assert chosen["sheets"].need(sets, plan, made["sheets"]).starts == 4 + still
    both = makers({name: STAGES[name] for name in ("adversarial", "sheets")}, sets, plan)
    assert both == {"adversarial": {name: 6}, "sheets": {name: 3}}
    assert not any(any(one.values()) for one in makers(STAGES, sets, plan).values())


def test_a_run_is_named_by_what_it_comes_to(done, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an experiment is about wins over words of the command line; a preset that changes, or
    other footage, makes another run."""
    context = done[0]
    data = trainings.whole_set(context, TINY)
    bare = trainings.Training(TINY, data, "bare", ("loss.lambda_triplet=0",))
    plan = replace(context.plan, words=(*context.plan.words, "loss.lambda_triplet=0.5"))
    told = replace(context, plan=plan)
    assert resolve(trainings._settings(told, bare)).loss.lambda_triplet == 0
    assert trainings._name(told, bare) == trainings._name(context, bare)
    full = bare._replace(words=())
    assert trainings._name(told, full) != trainings._name(context, full)
    before = trainings._name(context, bare)
    changed = {**PRESETS[TINY.preset], "optim": {"theta_rate": 0.123}}
    monkeypatch.setitem(PRESETS, TINY.preset, changed)
    assert trainings._name(context, bare) != before


def test_a_set_that_cannot_serve_is_a_note(tmp_path: Path) -> None:
    """No cell to hold out, nothing that would be unseen: one line each, and the rest goes on."""
    single = replace(TINY, identities=1, actions=1)
    context = Context(tmp_path, (single,), PLAN, None, "", Trainer())
    for name, text in (("exchange", "no exchange: "), ("unseen", "nothing is unseen: ")):
        result = STAGES[name].run(context)
        assert not result.claims and result.notes[0].startswith(f"{single.name}: {text}")


def _serving(parent: psutil.Process) -> list[psutil.Process]:
    """Its children that are the server by now: what an import runs (`ldconfig`) ends at any time,
    and before it is that program, a child is a copy of its parent, whose words name it, too."""
    found = []
    for child in parent.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            if child.cmdline()[1:3] == ["-m", "http.server"]:
                found.append(child)
    return found


def test_a_killed_reproduction_leaves_no_training_behind(tmp_path: Path) -> None:
    """What it had started ends with it, by itself."""
    code = (
        "import sys; from pathlib import Path\n"
        "from launch.reproduce.trainings import start_process\n"
        "start_process('http.server', ['--bind', '127.0.0.1', '0'], Path(sys.argv[1]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")])
    try:
        until = time.monotonic() + 60
        while not (found := _serving(psutil.Process(parent.pid))):
            assert time.monotonic() < until, "no child"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert not psutil.wait_procs(found, timeout=30)[1]


def test_a_budget_is_divided_over_its_trainings_and_too_small_a_one_is_refused() -> None:
    """All trainings together with their overhead take the trainings' share of the budget."""
    each = planner.divide(30, [Need(20, 20, 0.0, False)])
    assert 20 * (each + planner.OVERHEAD_MINUTES) == pytest.approx(30 * planner.SHARE)
    less = planner.divide(30, [Need(12, 9, 5, True), Need(8, 11, 1, False)])
    spent = 20 * (less + planner.OVERHEAD_MINUTES) + 6
    assert spent == pytest.approx(30 * planner.SHARE)
    with pytest.raises(UserError, match="too few"):
        planner.divide(1, [Need(20, 20, 0.0, False)])
    sizes = {name: planner.budget_of(name) for name in ("45m", "2.5h", "30m")}
    assert [sizes[n].minutes for n in sizes] == [45, 150, 30] and sizes["2.5h"].seeds == 3
    for wrong in ("0m", "1d", "h", "-3m"):
        with pytest.raises(UserError, match="nor a length"):
            planner.budget_of(wrong)
    assert mean_std([1.0, 3.0], digits=1) == "2.0 ± 1.4" and mean_std([]) is None


def test_what_stands_for_itself_takes_the_time_that_is_left() -> None:
    """Early, the free stages are longer, up to twice; late, they are shorter, or nothing runs; a
    part of what is left stays for what takes longer than expected, and the plan's whole reserve
    where they are longer than planned."""
    fixed, free = Need(4, 4, 1.0, True), Need(6, 6, 1.0, False)
    none = Need(0, 0, 1.0, False)
    given = partial(planner.given, planned=1.0, pace=1.0, reserve=0.0)
    assert given(30, [fixed, free, none]) == 1.0
    assert given(30, [free, none]) == planner.LONGER
    early = given(12, [free, none])
    assert early == pytest.approx((0.95 * 12 - 2 - 6 * planner.OVERHEAD_MINUTES) / 6) and early > 1
    held = given(12, [free, none], reserve=1.5)
    assert held == pytest.approx(early - 0.9 / 6) and held > 1
    assert given(12, [free, none], reserve=4) == 1.0
    assert given(12, [free, none], pace=0.5) == early, "what went fast before is no promise"
    tight = given(6.2, [free, none], reserve=2)
    assert tight == pytest.approx((5.2 - 2 - 6 * planner.OVERHEAD_MINUTES) / 6)
    late = given(6.2, [free, none])
    assert late is not None and late < 1
    spent = 6 * (late + planner.OVERHEAD_MINUTES) + 2
    assert spent == pytest.approx(planner.SHARE * 6.2)
    assert given(6.2, [free, none], pace=3.0) is None
    assert given(4.0, [fixed, none]) is None
    assert given(0.9, [none]) is None
    assert planner.pace_of([]) == 1.0
    twice = (free, 1.0, 6 + 2 * (1 + 6 * planner.OVERHEAD_MINUTES))
    assert planner.pace_of([twice]) == pytest.approx(2)


def test_a_budget_is_kept_by_stages_and_survives_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a stage was given is kept; a stage that does not fit is left out and said so."""
    seen: list[tuple[str, float | None]] = []

    def stage(name: str, trainings: int, fixed: bool) -> Stage:
        def run(context: Context) -> StageResult:
            seen.append((name, context.plan.minutes))
            return StageResult(notes=(name,))

        return Stage(name, lambda footage, plan: trainings, run, (0.0, 0.0), fixed)

    stages = {"a": stage("a", 2, True), "b": stage("b", 4, False), "c": stage("c", 30, True)}
    context = Context(tmp_path, (TINY,), replace(PLAN, minutes=1.0), None, "", Trainer())

    def paced(budget: float) -> Pacing:
        return Pacing(context, stages, State(tmp_path), Lives(tmp_path), budget=budget)

    first = paced(36.0)
    results = [first.run(name) for name in stages]
    (_, whole), (_, short), (_, last) = seen
    told = capsys.readouterr().err.splitlines()
    first_of = 2 + 2 * planner.OVERHEAD_MINUTES
    assert told[0] == (
        f"stage a: 2 trainings, 1 at a time, about {first_of:.1f} minutes; "
        "36 minutes of the budget are left"
    )
    around = 0.5 * (4 + 30) * planner.OVERHEAD_MINUTES  # at the fastest pace
    most = (planner.SHARE * 36 - around - 30) / 4
    assert whole == last == 1.0 and short is not None and 0.05 <= short <= most + 1e-9 < 1
    again = paced(36.0)
    assert [again.run(name) for name in stages] == results and len(seen) == 3
    assert [row[3] for row in again.time().tables[0].rows] == [1.0, short, 1.0, None, None]
    other = tmp_path / "less"
    less = Pacing(context, {"c": stages["c"]}, State(other), Lives(other), budget=20)
    assert "left out: 20.0 minutes" in less.run("c").notes[0] and len(seen) == 3
    assert less.time().tables[0].rows[0][3:] == (None, None, None)
    other = tmp_path / "late"
    late = Pacing(context, stages, State(other), Lives(other, already=32 * 60), budget=36.0)
    late.run("a")
    assert "4 minutes of the budget are left" in capsys.readouterr().err.splitlines()[-1]


def test_a_stage_needs_what_runs_beside_each_other_once() -> None:
    """Starts, shares and minutes of a stage against a loop over its trainings."""
    real = replace(TINY, name="real", root="somewhere")
    plan = replace(PLAN, seeds=3, synthetic_seeds=1, jobs=2, shares={"real": 1.5}, randoms=50)
    stage = STAGES["ablation"]
    starts, units, seconds = 0, 0.0, 0.0
    for one, seeds in ((TINY, 1), (real, 3)):
        for _ in range(5 * seeds):
            starts, units = starts + 1, units + (1.5 if one is real else 1.0)
        seconds += stage.rest[0] + stage.rest[1] * seeds * 0.5
    assert stage.need((TINY, real), plan) == pytest.approx((starts / 2, units / 2, seconds / 60, 1))
    fits = STAGES["unseen"].need((TINY, real), replace(plan, counts=True, fit_steps=200))
    assert fits.rest == pytest.approx(
        (2 * STAGES["unseen"].rest[0] + (3 + 5) * 2 * STAGES["unseen"].fitting) / 60
    )
    timed = replace(plan, minutes=2.0)
    assert timed.length_on("real") == ("train.minutes=3",)
    assert timed.length_on("synthetic") == ("train.minutes=2",) and plan.length_on("real") == ()


def test_longer_sets_train_longer_within_limits() -> None:
    """Shares follow the number of videos, from half to twice the mean."""
    assert planner.shares_of({"a": 30, "b": 30}) == {"a": 1, "b": 1}
    assert planner.shares_of({"a": 20, "b": 30, "c": 40}) == pytest.approx(
        {"a": 20 / 30, "b": 1, "c": 40 / 30}
    )
    assert planner.shares_of({"a": 1, "b": 160, "c": 439}) == {"a": 0.5, "b": 0.8, "c": 2.0}


def test_trainings_run_beside_each_other_and_a_failure_ends_the_rest(tmp_path: Path) -> None:
    """Two tasks meet; after one that fails none begins that had not, and its error comes out."""
    meeting, begun = threading.Barrier(2), []
    trainings.at_once([meeting.wait, meeting.wait], jobs=2)

    def task(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise UserError("the first one fails")
        stop.wait(10)

    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(UserError, match="the first one fails"):
        trainings.at_once([partial(task, number) for number in range(9)], jobs=2)
    assert 0 in begun and len(begun) <= 3


def test_several_at_a_time_share_the_cores_and_the_longest_comes_first(tmp_path: Path) -> None:
    """Every training gets its threads and its set's minutes; long ones begin first; logs exist."""
    heard: list[tuple[str, list[str]]] = []

    def start(module: str, words: list[str], log: Path) -> int:
        heard.append((module, words))
        assert log.parent.is_dir()
        return 0

    plan = replace(PLAN, minutes=2.0, jobs=2, shares={"synthetic": 0.5, "long": 2.0}, words=())
    sets = (TINY, replace(TINY, name="long"))
    context = Context(tmp_path, sets, plan, None, "", start)
    wanted = [one for footage in sets for one in trainings.full_models(context, footage)]
    folders = trainings.train(context, wanted)
    assert [folder.name.split("-")[0] for folder in folders] == ["synthetic", "long"]
    assert {module for module, _ in heard} == {"trainer.main"}
    longest = [next(w for w in words if w.startswith("train.minutes=")) for _, words in heard]
    assert sorted(longest) == ["train.minutes=1", "train.minutes=4"]
    threads = max(1, trainings.cores() // 2)
    assert all(f"train.threads={threads}" in words for _, words in heard)
    several = [adversarial.Baseline("VGAN", wanted[0].data, seed, 1.0 + seed, 8) for seed in (0, 1)]
    adversarial.train_baselines(context, several)
    assert [module for module, _ in heard[2:]] == [adversarial.MODULE] * 2
    given = [words[words.index("--threads") + 1] for _, words in heard[2:]]
    assert given == [str(threads)] * 2
    assert all(words[words.index("--channels") + 1] == "8" for _, words in heard[2:])
    heard.clear()
    trainings.train(replace(context, plan=replace(plan, jobs=1)), wanted)
    assert "train.minutes=4" in heard[0][1] and "train.minutes=1" in heard[1][1]


def test_large_synthetic_sets_grow_and_keep_their_unseen_ones_apart() -> None:
    """A larger part holds the smaller ones; an appearance is trained on or fitted, never both."""
    kept, new = unseen.large_split(12)
    assert len(kept) == 10 * 8 and len(new) == 2 * 8 and len(set(kept + new)) == 12 * 8
    looks = [{name.split("/")[0] for name in names} for names in (kept, new)]
    assert not looks[0] & looks[1]
    assert len({name.split("/")[1] for name in kept[:20]}) > 4


def test_what_is_unseen_does_not_look_like_what_is_trained_on() -> None:
    """An unseen appearance of the large synthetic sets is 20 degrees of hue from every other one of
    its shape, and 2,000 videos are left."""
    kept, new = unseen.large_split(250 + unseen.NEW_ROWS + unseen.ROOM)
    looks, unlike = ({name.split("/")[0] for name in names} for names in (kept, new))
    assert len(unlike) == unseen.NEW_ROWS and len(kept) >= 2000
    assert min(synthetic.degrees_apart(a, b) for a in looks for b in unlike) >= 20


def test_data_sets_are_found_by_their_layout(tmp_path: Path) -> None:
    """Known folders give sets, synthetic footage is always there, nothing known is an error."""
    (tmp_path / "weizmann_strips").mkdir()
    (tmp_path / "rendered_chairs").mkdir()
    names = [s.name for s in find_sets(str(tmp_path))]
    assert names == ["synthetic", "chairs", "weizmann_strips"]
    with pytest.raises(UserError, match="holds none of"):
        find_sets(str(tmp_path / "rendered_chairs"))
    assert entry.main(["--budget", "1d"]) == 2 and entry.main(["--stages", "none"]) == 2


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
    found = figures.references(figures.truth_of(real, vgg=None))
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


@pytest.mark.parametrize(("frames", "size"), [(6, 32), (16, 64)])
def test_baselines_make_videos_that_their_critics_judge(frames: int, size: int) -> None:
    """Every frame of every size comes out in [-1, 1]; critics give one number a video."""
    draw = torch.Generator().manual_seed(0)
    for make in BASELINES.values():
        game = make(frames=frames, size=size, channels=2)
        made = game.generator(3, draw)
        assert made.videos_BTCHW.shape == (3, frames, 3, size, size)
        assert made.videos_BTCHW.abs().max() <= 1 and made.penalty >= 0
        for critic in game.critics:
            assert critic.network(critic.view(made.videos_BTCHW, draw)).shape == (3,)


def test_vgan_background_does_not_move() -> None:
    """Where the mask is shut a video is its background: still."""
    game = BASELINES["VGAN"](frames=6, size=32, channels=2)
    bias = dict(game.generator.named_parameters())["mask.bias"]
    torch.nn.init.constant_(bias, -100.0)
    videos = game.generator(2, torch.Generator().manual_seed(0)).videos_BTCHW
    assert torch.allclose(videos, videos[:, :1].expand_as(videos))


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
    grey = np.full((16, 64, 64, 3), 128, np.uint8)
    plain = coding.h264(grey, crf=51)
    assert plain.bytes < 300 and np.abs(plain.frames_THWC.astype(int) - 128).max() < 4


def test_a_film_pays_for_its_pictures_alone() -> None:
    """x264's note of its own settings is a unit of supplemental information: it goes, whatever
    comes before and behind it, and all else stays."""
    units = [b"\0\0\0\1\x67ab", b"\0\0\1\x06x264 - core", b"\0\0\0\1\x68c",
             b"\0\0\1\x65\0\0\3\1d"]  # fmt: skip
    assert coding.without_notes(b"".join(units)) == units[0] + units[2] + units[3]


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
