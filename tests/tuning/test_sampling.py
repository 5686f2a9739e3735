"""What is drawn: the configuration given first, then values of the space, whatever the sampler."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.config import resolve
from tuning.halving import BRACKETS, make_scheduler, rungs, seeded
from tuning.plan import default_scheduler
from tuning.records import DONE, FAILED, STOPPED, Record, Settings, write_record
from tuning.sampling import Sampler, replay
from tuning.space import default_space, values_of, words_of

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
