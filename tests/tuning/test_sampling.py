"""What is drawn: the configuration given first, then values of the space, whatever the sampler."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trainer.config import resolve
from tuning.actor import ending
from tuning.halving import BRACKETS, make_scheduler, rungs, seeded
from tuning.plan import default_scheduler
from tuning.records import (
    BUDGET,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    Record,
    Settings,
    write_record,
)
from tuning.sampling import Sampler, replay
from tuning.space import Space, default_space, space_of, values_of, words_of

SPACE = default_space(rates=True)
SETTINGS = Settings(
    manifest="/set", words=(), steps=90, rungs=(10, 30), objectives=("psnr",), workers=1, cpus=1,
    gpus=0, interval=2, seed=0, vgg="", space={},
)  # fmt: skip


@pytest.mark.parametrize("searcher", ["optuna", "bohb", "random"])
def test_the_first_trial_is_what_was_given(searcher: str) -> None:
    """Then come others, each a legal config, also once the sampler has learnt from some."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    given = values_of(SPACE, resolve(["preset=weizmann"]))
    sampler = Sampler(SPACE, ("psnr",), [], searcher=searcher, seed=3, first=given)
    seen = []
    for number in range(12):
        name, values, *_ = sampler.draw() or ("", {})
        assert name == f"t{number:04d}"
        seen.append(values)
        stopped = number % 3 == 1
        scores = {} if stopped else {"psnr": 20.0 + values["loss.margin"]}
        sampler.tell(Record(name, values, (), STOPPED if stopped else DONE, scores=scores,
                            rungs=((10, 15.0),)))  # fmt: skip
    assert seen[0] == given and all(values != given for values in seen[1:])
    for values in seen[-3:]:
        assert resolve(words_of(SPACE, values)).latents.static == values["latents.static"]


def drawn(searcher: str, count: int, *names: str) -> list[dict[str, Any]]:
    """Values of the first trials of a study, each told at once that it did well where its margin is
    near 1 and its rates are low; the second of them failed."""
    names = names or ("psnr",)
    given = values_of(SPACE, resolve(["preset=weizmann"]))
    sampler, seen = Sampler(SPACE, names, [], searcher=searcher, seed=0, first=given), []
    for number in range(count):
        name, values, *_ = sampler.draw() or ("", {})
        seen.append(values)
        good = -abs(math.log(values["loss.margin"])) - math.log(values["latents.rate"])
        scores = {} if number == 1 else {each: good * (-1) ** i for i, each in enumerate(names)}
        sampler.tell(Record(name, values, (), DONE if scores else FAILED, scores=scores))
    return seen


def test_searchers_with_a_model_differ() -> None:
    """Up to the sixth finished trial all that has a model draws at random; then each draws
    otherwise, and `bohb` draws one in three at random besides, from another seed."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    optuna, bohb, chance = (drawn(name, 12) for name in ("optuna", "bohb", "random"))
    assert optuna[:7] == chance[:7] and optuna[7] != chance[7]
    at_random = [2, 5, 8, 11]
    assert bohb[:2] == optuna[:2]
    assert not any(bohb[number] in (*optuna, *chance) for number in at_random)
    assert not any(a == b for a, b in zip(optuna[7:], bohb[7:], strict=True))


@pytest.mark.parametrize(
    ("searcher", "names", "together"),
    [
        ("optuna", ("psnr",), True),
        ("optuna", ("psnr", "bytes"), False),
        ("bohb", ("psnr",), True),
        ("bohb", ("psnr", "bytes"), True),
    ],
)
def test_every_setting_of_a_model_is_named(
    monkeypatch: pytest.MonkeyPatch, searcher: str, names: tuple[str, ...], together: bool
) -> None:
    """Nothing that decides what is drawn is left to the defaults of the optuna that is installed:
    all that it takes is given, but for what it says is deprecated or obsolete."""
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    asked: dict[str, Any] = {}
    made = optuna.samplers.TPESampler

    def spy(**options: Any) -> Any:
        asked.update(options)
        return made(**options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", spy)
    replay(SPACE, names, [], searcher=searcher, seed=7)
    assert asked == {
        "seed": 7, "multivariate": together, "n_startup_trials": 6, "n_ei_candidates": 24,
        "group": False, "constant_liar": True,
    }  # fmt: skip
    known = inspect.signature(made.__init__).parameters.values()
    rest = {item.name: item.default for item in known if item.name not in (*asked, "self")}
    assert set(rest.values()) == {None}, "new settings, which nobody has chosen"


def tried(space: Space, count: int, *known: Record, seed: int = 0) -> list[dict[str, Any]]:
    """What a grid's next trials are; the configuration given lies in the middle of each range."""
    given = {item.path: item.grid()[1] for item in space.ranges}
    sampler = Sampler(space, ("psnr",), known, searcher="grid", seed=seed, first=given)
    return [drawn.values for _ in range(count) if (drawn := sampler.draw())]


def test_a_grid_is_tried_all_over_and_not_corner_by_corner() -> None:
    """A budget bears a few of 972 points: the configuration given, which is one of them, comes
    first, then any, so that every setting is tried; a study that goes on keeps to the order, and
    another seed has another."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    space = default_space()
    seen = tried(space, 12)
    assert seen[0] == {item.path: item.grid()[1] for item in space.ranges}
    assert all(len({values[item.path] for values in seen}) > 1 for item in space.ranges)
    known = [Record(f"t{number:04d}", seen[number], (), FAILED) for number in range(5)]
    assert tried(space, 7, *known) == seen[5:]
    other = tried(space, 12, seed=1)
    assert other[0] == seen[0] and other != seen


def test_a_grid_ends_when_every_point_has_been_tried_once() -> None:
    """Six points, six trials, whatever their order."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    space = space_of({"loss.radius": [1, 2], "loss.margin": {"low": 0.5, "high": 2.0, "log": True}})
    points = sorted((values["loss.radius"], values["loss.margin"]) for values in tried(space, 9))
    assert points == [(1, 0.5), (1, 1.0), (1, 2.0), (2, 0.5), (2, 1.0), (2, 2.0)]


EIGHTH: dict[str, dict[str, Any]] = {
    "optuna": {
        "latents.static": 41,
        "latents.transient": 125,
        "loss.radius": 1,
        "loss.margin": 2.346475806273899,
        "loss.lambda_static": 0.0010795123817129715,
        "loss.lambda_triplet": 0.002991453068136492,
        "optim.gamma_rate": 0.0012722728618750994,
        "optim.theta_rate": 0.00043888143904110253,
        "latents.rate": 0.003604728202074944,
    },
    "bohb": {
        "latents.static": 99,
        "latents.transient": 48,
        "loss.radius": 1,
        "loss.margin": 1.2707058743560344,
        "loss.lambda_static": 0.007383268819178121,
        "loss.lambda_triplet": 0.13442275909146315,
        "optim.gamma_rate": 0.001961148657765132,
        "optim.theta_rate": 0.000792234545776154,
        "latents.rate": 0.0027871187245145815,
    },
}
"""What the eighth trial of `drawn` was under optuna 5.0.0."""


@pytest.mark.parametrize("searcher", EIGHTH)
def test_a_study_is_drawn_as_it_was_recorded(searcher: str) -> None:
    """A version of optuna within the pinned range that draws otherwise would make it another study:
    pyproject.toml holds it back."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    assert drawn(searcher, 8)[7] == pytest.approx(EIGHTH[searcher], rel=1e-6)


def beside(seed: int, *, running: bool) -> dict[str, Any]:
    """The tenth trial of a study, drawn while the ninth still runs, or once it has failed."""
    sampler, drawn = Sampler(SPACE, ("psnr",), [], searcher="optuna", seed=seed), None
    for number in range(10):
        drawn = sampler.draw()
        assert drawn is not None
        if number < 8 or not running:
            done = number < 8
            scores = {"psnr": drawn.values["loss.margin"]} if done else {}
            status = DONE if done else FAILED
            sampler.tell(Record(drawn.name, drawn.values, (), status, scores=scores))
    assert drawn is not None
    return drawn.values


def test_what_is_drawn_depends_on_trials_that_still_run() -> None:
    """Two at a time: the model takes what runs for bad, and a failed one for nothing at all."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    moved = [beside(seed, running=True) != beside(seed, running=False) for seed in range(10)]
    assert any(moved)


@pytest.mark.parametrize("name", [*BRACKETS, "none"])
def test_a_scheduler_knows_the_rungs_of_earlier_lives(name: str, tmp_path: Path) -> None:
    """Halving compares at a ninth and a third, HyperBand in three brackets, none not at all."""
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    assert rungs(90, name) == ((10, 30) if name in BRACKETS else ())
    write_record(tmp_path, Record("t0000", {}, (), STOPPED, rungs=((10, 12.0),)))
    made = make_scheduler(tmp_path, SETTINGS._replace(rungs=rungs(90, name)), name)
    brackets = getattr(made, "_brackets", [])
    assert len(brackets) == BRACKETS.get(name, 0)
    known = [recorded for bracket in brackets for _, recorded in bracket._rungs if recorded]
    if name == "asha":
        assert known == [{"t0000": 12.0}]


def test_a_trial_gone_on_with_is_the_same_trial_to_halving(tmp_path: Path) -> None:
    """What it reached before the search was killed counts once, for others too, and its end by the
    budget is no score; a rung that it reaches now is added."""
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    for name, score in (("t0001", 20.0), ("t0002", 12.0)):
        write_record(tmp_path, Record(name, {}, (), RUNNING, rungs=((10, score),)))
    made: Any = make_scheduler(tmp_path, SETTINGS, "asha")
    ((_, last, first),) = ([rung for _, rung in bracket._rungs] for bracket in made._brackets)
    assert first == {"t0001": 20.0, "t0002": 12.0} and not last
    again = [SimpleNamespace(trial_id=f"new-{n}", config={"trial": f"t000{n}"}) for n in (1, 2, 3)]
    for trial in again:
        made.on_trial_add(None, trial)
    assert made.on_trial_result(None, again[2], {"step": 10, "score": 13.0}) == "STOP"
    assert made.on_trial_result(None, again[0], {"step": 30, "score": 22.0}) == "CONTINUE"
    budget = SimpleNamespace(record=Record("t0002", {}, (), BUDGET, step=12, rungs=((10, 12.0),)))
    told = ending(budget)  # pyright: ignore[reportArgumentType]
    made.on_trial_complete(None, again[1], told)
    assert first == {"t0001": 20.0, "t0002": 12.0, "t0003": 13.0} and last == {"t0001": 22.0}


def test_the_first_trial_is_compared_and_never_stopped(tmp_path: Path) -> None:
    """What was given is to be finished, however it begins; others are stopped, by its score too."""
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    made = make_scheduler(tmp_path, SETTINGS, "asha")
    decided = []
    for name, score in (("t0001", 20.0), ("t0000", 10.0), ("t0002", 9.0), ("t0003", 14.0)):
        trial = SimpleNamespace(trial_id=f"ray-{name}", config={"trial": name})
        made.on_trial_add(None, trial)
        decided.append(made.on_trial_result(None, trial, {"step": 10, "score": score}))
    # The last one is above two thirds of 20, 10 and 9, and below those of 20 and 9 alone.
    assert decided == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE"]


def brackets(folder: Path, seed: int) -> list[int]:
    """Number of the bracket of each trial."""
    with seeded(seed):
        made = make_scheduler(folder, SETTINGS, "hyperband")
    return [made._brackets.index(bracket) for bracket in made._trial_info.values()]


def test_brackets_are_drawn_from_the_seed(tmp_path: Path) -> None:
    """The same again for the same seed, others for another; numpy's own generator goes on as if
    nothing had been drawn."""
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    for number in range(30):
        record = Record(f"t{number:04d}", {}, (), STOPPED, rungs=((10, float(number)),))
        write_record(tmp_path, record)
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    drawn = brackets(tmp_path, 3)
    assert np.random.random() == expected
    assert len(drawn) == 30 and len(set(drawn)) > 1
    assert brackets(tmp_path, 3) == drawn != brackets(tmp_path, 4)


@pytest.mark.parametrize(
    ("searcher", "objectives", "expected"),
    [
        ("optuna", ("psnr",), "asha"),
        ("bohb", ("psnr",), "hyperband"),
        ("pb2", ("psnr",), "none"),
        ("optuna", ("unseen-mcs",), "none"),
        ("bohb", ("exchange",), "none"),
        ("optuna", ("psnr", "bytes"), "none"),
    ],
)
def test_trials_are_compared_by_training_psnr_only_where_it_is_the_aim(
    searcher: str, objectives: tuple[str, ...], expected: str
) -> None:
    """A rung says little about cells never seen: every trial is finished unless one asks."""
    assert default_scheduler(searcher, objectives) == expected


@pytest.mark.parametrize("objective", ["psnr", "exchange"])
def test_a_study_that_goes_on_knows_what_it_was_told(objective: str) -> None:
    """Live and replayed alike: a stopped trial counts with its rungs where those say something of
    the objective, and as failed elsewhere."""
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'navsynth[tune]'")
    sampler, records = Sampler(SPACE, (objective,), [], searcher="random", seed=0), []
    for status in (DONE, STOPPED, FAILED):
        name, values, *_ = sampler.draw() or ("", {})
        scores = {objective: 20.0} if status == DONE else {}
        records.append(Record(name, values, (), status, scores=scores, rungs=((10, 15.0),)))
        sampler.tell(records[-1])
    live = sampler._study.trials
    again = replay(SPACE, (objective,), records, searcher="random").trials
    stopped = "PRUNED" if objective == "psnr" else "FAIL"
    assert [trial.state.name for trial in live] == ["COMPLETE", stopped, "FAIL"]
    for one, other in zip(live, again, strict=True):
        assert (one.state, one.params) == (other.state, other.params)
        assert one.intermediate_values == other.intermediate_values
    assert live[1].intermediate_values == ({10: 15.0} if objective == "psnr" else {})
