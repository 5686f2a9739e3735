"""What is drawn: the configuration given first, then values of the space, whatever the sampler."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import resolve
from tuning.halving import BRACKETS, make_scheduler, rungs
from tuning.records import DONE, STOPPED, Record, Settings, write_record
from tuning.sampling import Sampler
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
