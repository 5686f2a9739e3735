"""The schedules' tables, written out."""

import math
from collections import Counter

import pytest

from data_shards.errors import UserError
from trainer.schedule import (
    EVERYTHING,
    KINDS,
    ScheduleConfig,
    pace,
    rate_factor,
    stage,
    total_steps,
    visit,
)


def table(config, steps):
    own = pace(config)
    return [(visit(s, pace=own), "+".join(sorted(stage(s, pace=own).moves))) for s in range(steps)]


def test_fast_takes_one_step_on_each_batch():
    """Every step is a new batch, and everything moves."""
    assert table(ScheduleConfig(), 3) == [(v, "gamma+latents+theta") for v in range(3)]


def test_joint_stays_with_a_video():
    """The authors' code: 300 steps on one video, everything moving, five passes."""
    own = pace(ScheduleConfig(kind="joint"))
    assert (own.clips, own.frames, own.passes, own.visit_steps) == (1, 0, 5, 300)
    assert Counter(visit(s, pace=own) for s in range(900)) == {0: 300, 1: 300, 2: 300}
    assert all(stage(s, pace=own).moves == EVERYTHING for s in (0, 299, 300))
    assert total_steps(clips=12, pace=own) == 5 * 12 * 300


def test_alternate_moves_gamma_then_the_rest():
    """Eqs. 3.1 and 3.2 in turn on each batch, with mu_gamma and mu_Z steps."""
    config = ScheduleConfig(kind="alternate", inner_gamma=2, inner_latents=3)
    one_visit = ["gamma"] * 2 + ["latents+theta"] * 3
    assert table(config, 10) == [(v, moves) for v in (0, 1) for moves in one_visit]


def test_alternate_defaults_to_chair_cad_of_tab_6():
    """mu_gamma = 5 and mu_Z = 300."""
    own = pace(ScheduleConfig(kind="alternate"))
    assert [(kind.name, steps) for kind, steps in own.stages] == [
        ("generator", 5),
        ("latents", 300),
    ]


def test_a_stage_without_steps_is_left_out():
    """Only latents and theta move when gamma has no steps."""
    config = ScheduleConfig(kind="alternate", inner_gamma=0, inner_latents=2)
    assert table(config, 4) == [(v, "latents+theta") for v in (0, 0, 1, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_visit_starts_where_the_one_before_ends(kind):
    """Visits follow each other without gaps, each as long as its stages."""
    own = pace(ScheduleConfig(kind=kind))
    for index in range(4):
        start = index * own.visit_steps
        assert visit(start, pace=own) == index
        assert start == 0 or visit(start - 1, pace=own) == index - 1


def test_passes_end_with_the_batch_that_completes_them():
    """Batches that do not divide the clips are counted up, once for all passes together."""
    own = pace(ScheduleConfig(passes=3, clips=4))
    assert total_steps(clips=5, pace=own) == math.ceil(3 * 5 / 4)


def test_settings_win_over_the_row_of_their_kind():
    """Zero is a value: all frames."""
    own = pace(ScheduleConfig(kind="fast", clips=3, frames=0, inner=2, passes=7))
    assert (own.passes, own.clips, own.frames, own.visit_steps) == (7, 3, 0, 2)


def test_curves():
    """Constant stays, cosine and linear fall to zero, after a straight warm-up."""
    assert rate_factor(0.7, curve="constant") == 1
    assert rate_factor(0.25, curve="linear") == 0.75
    assert rate_factor(0.5) == pytest.approx(0.5)
    assert [rate_factor(p) for p in (0, 1, 2)] == pytest.approx([1, 0, 0])
    assert rate_factor(0.05, warmup=0.1) == pytest.approx(0.5)
    assert rate_factor(0.1, warmup=0.1) == pytest.approx(1)
    assert rate_factor(0.55, warmup=0.1) == pytest.approx(0.5)
    falling = [rate_factor(p / 50) for p in range(51)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(("settings", "named"), [
    ({"kind": "slow"}, "schedule.kind"),
    ({"clips": 0}, "schedule.clips"),
    ({"frames": -1}, "schedule.frames"),
    ({"kind": "joint", "inner": 0}, "schedule.inner"),
    ({"kind": "alternate", "inner_gamma": 0, "inner_latents": 0}, "schedule.inner_gamma"),
])  # fmt: skip
def test_mistakes_name_their_setting(settings, named):
    """One line, with the dotted path."""
    with pytest.raises(UserError, match=named):
        ScheduleConfig(**settings)
