"""The time of a reproduction: its lives, its budget, and what is not taken from a stale cache."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_shards.errors import UserError
from data_shards.manifest import MANIFEST, read_manifest
from launch.reproduce import __main__ as entry
from launch.reproduce import footage, planner, report
from launch.reproduce.context import Context, Stage, StageResult, models
from launch.reproduce.footage import SYNTHETIC, find_sets, prepared
from launch.reproduce.lives import FILE, Lives
from launch.reproduce.pacing import Pacing
from launch.reproduce.planner import Need, Plan
from launch.reproduce.stages import STAGES
from launch.reproduce.state import State
from tests.support.training import environment

TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
FACTS = report.Facts("a test", "tiny", "synthetic", "any", "3 steps")
BUDGET = "the whole budget ran within 30 minutes"

LIFE = """
import sys, time
from pathlib import Path
from launch.reproduce.lives import Lives
with Lives(Path(sys.argv[1]), beat=0.05) as lives, lives.stage("a"):
    lives.watched(lambda module, words, log: 0)("trainer.main", [], Path("one.log"))
    time.sleep(600)
"""


def quiet(module: str, words: list[str], log: Path) -> int:
    """Starts nothing."""
    return 0


def context_of(out: Path, plan: Plan | None = None) -> Context:
    return Context(out, (TINY,), plan or Plan(None, 1), None, "", quiet)


def stage(run: Callable[[Context], StageResult], *, trainings: int = 0, uses: int = 0) -> Stage:
    """A stage that needs nothing but its trainings, which are never shortened."""
    return Stage("a stage", lambda footage, plan: trainings, run, (0.0, 0.0), fixed=True,
                 uses=lambda footage, plan: models(map(str, range(uses)), 1))  # fmt: skip


def test_a_killed_life_counts_up_to_its_last_sign(tmp_path: Path) -> None:
    """A life that is killed in a stage leaves its seconds and its training; the one that ends the
    stage adds its own; one that runs it again begins anew."""
    process = subprocess.Popen([sys.executable, "-c", LIFE, str(tmp_path)], env=environment())
    try:
        until = time.monotonic() + 60
        while (Lives(tmp_path).took("a") or 0.0) < 0.3:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    lives = Lives(tmp_path)
    killed = lives.took("a")
    assert killed is not None and 0.3 <= killed <= lives.spent()
    assert lives.origins(["one", "other"]) == (0, 1, 1, 1)
    with lives, lives.stage("a"):
        pass
    assert lives.took("a") == pytest.approx(killed + lives.life.stages["a"])
    assert lives.before("a") == 0 and not lives.again()
    third = Lives(tmp_path)
    with third, third.stage("a"):
        pass
    assert third.took("a") == third.life.stages["a"]
    assert third.before("a") >= killed and third.again() and len(third.counted()) == 3


def test_a_process_knows_how_long_it_has_lasted() -> None:
    """From its start on, with the imports: no longer than its parent has seen it."""
    code = "from launch.reproduce.lives import process_seconds; print(process_seconds())"
    begin = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert 0 < float(run.stdout) <= time.monotonic() - begin + 0.02


def test_lives_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Damaged, with parts missing, or of another version: one line that names the file."""
    for text in ("{", '{"format": 1}', '{"format": 1, "planned": {}, "given": {}, "lives": [1]}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match=f"{FILE}: damaged"):
            Lives(tmp_path)
    (tmp_path / FILE).write_text('{"format": 0, "planned": {}, "given": {}, "lives": []}')
    with pytest.raises(UserError, match="another version"):
        Lives(tmp_path)


def test_the_budget_is_judged_at_the_end_with_all_lives(tmp_path: Path) -> None:
    """Not after the first of two stages; then the life that failed counts, and one that finds
    everything done does not."""
    told: list[str] = []

    def first(context: Context) -> StageResult:
        time.sleep(0.2)
        if not told:
            told.append("failed")
            raise UserError("the first life ends here")
        return StageResult(notes=("first",))

    def second(context: Context) -> StageResult:
        told.append((context.out / "results.md").read_text())
        return StageResult(notes=("second",))

    context, stages = context_of(tmp_path), {"a": stage(first), "b": stage(second)}
    with pytest.raises(UserError, match="the first life"):
        entry.reproduce(context, stages, FACTS, budget=30)
    for _ in range(2):
        text = entry.reproduce(context, stages, FACTS, budget=30)[0].read_text()
        assert f"| {BUDGET} | **holds** |" in text
        assert re.search(r"^- time: .* minutes of wall time in 2 lives$", text, flags=re.M)
    assert len(told) == 2
    assert f"| {BUDGET} | **not judged** |" in told[1] and "for 1 of 2 stages" in told[1]
    assert (Lives(tmp_path).took("a") or 0.0) > 0.39
    late = entry.reproduce(context, stages, FACTS, budget=0.005)[0].read_text()
    assert "| the whole budget ran within 0.005 minutes | **does not hold** |" in late
    assert "likely cause: what a killed life had not finished was begun again" in late


def test_trainings_of_other_runs_and_other_code_are_told(tmp_path: Path) -> None:
    """The report says how many there are; the time of other runs is not counted, so a budget with
    one of their trainings is not judged."""
    other = Lives(tmp_path)
    other.life.code = "older code"
    with other:
        other.follow("another run")
        other.watched(quiet)("trainer.main", [], tmp_path / "one.log")

    def look(context: Context) -> StageResult:
        context.asked.update(("one", "two"))
        context.start("trainer.main", [], tmp_path / "two.log")
        return StageResult(notes=("looked",))

    files = entry.reproduce(context_of(tmp_path), {"a": stage(look)}, FACTS, budget=30)
    text = files[0].read_text()
    assert (
        "- trainings: 2: 1 made by this life, 1 of other runs or none on record, whose time is not "
        "counted; 1 of other code\n"
    ) in text
    assert f"| {BUDGET} | **not judged** |" in text
    assert "without that of 1 trainings and 0 stages of other runs" in text


def test_every_life_of_a_run_plans_with_the_same_minutes(tmp_path: Path) -> None:
    """What preparing took is not given away; trainings of a run keep their length, however long a
    later life takes to begin; another budget is another run; a life that ended while it prepared
    counts for the next one."""
    stages, sets = {"ablation": STAGES["ablation"]}, (TINY,)
    plan = entry.plan_of(planner.budget_of("30m"), sets, Plan(None, 1))
    with pytest.raises(UserError, match="no footage"), Lives(tmp_path, already=60):
        raise UserError("no footage")
    with Lives(tmp_path, already=120) as first:
        given = entry.timed(plan, 30.0, stages, sets, first)
        need = stages["ablation"].need(sets, plan)
        assert given.minutes == pytest.approx(planner.divide(30, [need], spent=3), abs=0.05)
        paced = Pacing(context_of(tmp_path, given), stages, State(tmp_path), first, budget=30)
        assert paced.given("ablation") == given.minutes and 26 < paced.left < 27
    with Lives(tmp_path, already=600) as second:
        assert entry.timed(plan, 30.0, stages, sets, second) == given
    with Lives(tmp_path) as third:
        more = entry.timed(plan, 40.0, stages, sets, third)
        assert more.minutes is not None and given.minutes is not None
        assert more.minutes > given.minutes and third.spent() < 60


def test_what_is_spent_is_not_divided() -> None:
    """Trainings get their part of what is left, and an error names what is gone."""
    each = planner.divide(30, [Need(20, 20, 0.0, False)], spent=3)
    assert 20 * (each + planner.OVERHEAD_MINUTES) == pytest.approx(27 * planner.SHARE)
    with pytest.raises(UserError, match=r"30 minutes are too few.* and 28\.0 are gone"):
        planner.divide(30, [Need(20, 20, 0.0, False)], spent=28)


def test_what_a_left_out_stage_would_have_made_is_planned_for(tmp_path: Path) -> None:
    """Without the ablation the pictures make its models: they are counted, and left out where they
    do not fit."""
    seen: list[float | None] = []

    def run(context: Context) -> StageResult:
        seen.append(context.plan.minutes)
        return StageResult(notes=("ran",))

    stages = {"ablation": stage(run, trainings=40), "sheets": stage(run, uses=4)}
    context = context_of(tmp_path, Plan(1.0, 1))
    paced = Pacing(context, stages, State(tmp_path), Lives(tmp_path), budget=20)
    assert paced.need("sheets").units == 0
    assert paced.run("ablation").notes[0].startswith("left out: 20.0 minutes")
    assert (paced.need("sheets").units, paced.need("sheets").fixed) == (4, True)
    paced.run("sheets")
    assert seen == [1.0] and [row[1] for row in paced.rows] == [40, 4]
    (claim,) = paced.time().claims
    assert claim.holds is False and claim.detail.endswith("left out: ablation") and claim.cause
    less = Pacing(context, stages, State(tmp_path / "l"), Lives(tmp_path / "l"), budget=4)
    assert all(less.run(name).notes[0].startswith("left out") for name in stages)
    assert less.left_out == ["ablation", "sheets"] and seen == [1.0]


@pytest.mark.parametrize("name", ["compact", "sheets"])
def test_a_stage_by_itself_trains_several_sets_at_a_time(tmp_path: Path, name: str) -> None:
    """It makes its models `Plan.jobs` at a time, as the planner counts: those of two sets meet."""
    meeting = threading.Barrier(2)

    def start(module: str, words: list[str], log: Path) -> int:
        meeting.wait(30)
        return 1

    plan = Plan(None, 1, frames=6, size=32, jobs=2)
    sets = (TINY, replace(TINY, name="other"))
    with pytest.raises(UserError, match="ended with code 1"):
        STAGES[name].run(Context(tmp_path, sets, plan, None, "", start))


def test_stages_with_several_seeds_are_named() -> None:
    """The report's head says which ones repeat their trainings."""
    real = replace(TINY, name="real", root="somewhere")
    stages = {name: STAGES[name] for name in ("ablation", "exchange", "presets")}
    assert entry.seeds_of(Plan(1.0, 3, synthetic_seeds=1), stages, (TINY, real)) == (
        "3 seeds in ablation, exchange (one on synthetic footage); one (0) in all other stages"
    )
    assert entry.seeds_of(Plan(1.0, 1), stages, (TINY, real)) == "one seed (0)"


def write_strips(root: Path, seed: int) -> None:
    """Two actions of two persons, six frames of noise each."""
    draw = np.random.default_rng(seed)
    for number in range(4):
        path = root / f"move{number % 2}" / f"person{number // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 6 * 32, 3), np.uint8)).save(path)


def test_footage_that_changed_is_prepared_anew(tmp_path: Path) -> None:
    """In the same output folder: other files, another preparation; the same ones, none; one that
    is not on record is not trusted."""
    root, out = tmp_path / "weizmann_strips", tmp_path / "out"
    write_strips(root, 0)
    (strips,) = (s for s in find_sets(str(tmp_path)) if s.root)

    def look(one: footage.FootageSet = strips) -> tuple[str, int]:
        footage._prepare_once.cache_clear()  # as another process
        folder = prepared(one, out=out, name="all", frames=6, size=32)
        return read_manifest(folder).fingerprint, (folder / MANIFEST).stat().st_mtime_ns

    first = look()
    assert look() == first
    write_strips(root, 1)
    changed = look()
    assert changed[0] != first[0] and look() == changed
    for one in (strips, TINY):
        before = look(one)
        note = out / "data" / f"{one.name}-all.footage"
        note.write_text("of other code")
        again = look(one)
        assert again[0] == before[0] and again[1] > before[1]
        note.unlink()
        assert look(one)[1] > again[1]


def test_only_a_prepared_set_is_removed(tmp_path: Path) -> None:
    """Something else in its place is refused and stays; so is a link."""
    folder = tmp_path / "data" / "synthetic-all"
    folder.mkdir(parents=True)
    (folder / "letter").write_text("keep me")
    with pytest.raises(UserError, match="not prepared footage"):
        prepared(TINY, out=tmp_path, name="all", frames=6, size=32)
    assert (folder / "letter").read_text() == "keep me"
    elsewhere = prepared(TINY, out=tmp_path / "other", name="all", frames=6, size=32)
    (tmp_path / "data" / "synthetic-link").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(UserError, match="a link"):
        prepared(TINY, out=tmp_path, name="link", frames=6, size=32)
    assert (elsewhere / MANIFEST).is_file()


def test_a_stage_without_room_is_not_blamed_on_the_footage() -> None:
    """Where trainings before it were given more than was planned, that is why it was left out."""
    pacing = Pacing.__new__(Pacing)
    pacing.lives = SimpleNamespace(again=lambda: False, counted=lambda: [1])  # type: ignore
    pacing.left_out, pacing.done = ["sheets"], []
    pacing.rows = [("exchange", 2, 0.9, 0.9, 1.4, None), ("unseen", 3, 0.9, 1.6, 3.4, None)]
    assert pacing._why_long() == "trainings of unseen were given more than was planned"
    pacing.rows = pacing.rows[:1]
    assert pacing._why_long() == "preparing the footage, or trainings, took longer than planned"
