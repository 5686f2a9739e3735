"""Settings that change on the way: what each step has, and that a run goes on through a change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from tests.support.engines import everything, make, steps
from tests.support.footage import tiny_set
from tests.support.training import differing, tensors, train
from trainer import journal
from trainer.changes import CHANGING, Change, Changing, parse, write
from trainer.commit import read_json
from trainer.config import resolve

TWO = "train.changes=2: optim.gamma_rate=0.01 loss.margin=0.5; 4: latents.rate=0.002"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data"), frames=4, size=32)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.integers(1, 50),
        st.dictionaries(st.sampled_from(CHANGING[:5]), st.floats(1e-6, 10), min_size=1),
        max_size=6,
    )
)
def test_every_step_has_what_a_walk_over_the_changes_gives(
    table: dict[int, dict[str, float]],
) -> None:
    """Text and changes are the same thing, and step by step the config is that of a slow walk."""
    changes = tuple(Change(step, tuple(table[step].items())) for step in sorted(table))
    assert parse(write(changes)) == changes
    config = resolve([f"train.changes={write(changes)}"] if changes else [])
    changing, values = Changing(config), {}
    assert changing.at(0) is config
    for step in range(52):
        values |= table.get(step, {})
        now = changing.at(step)
        for path in CHANGING:
            group, name = path.split(".")
            expected = values.get(path, getattr(getattr(config, group), name))
            assert getattr(getattr(now, group), name) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim.gamma_rate=1", "expected STEP: setting=value ..., from step 1 on"),
        ("0: optim.gamma_rate=1", "expected STEP: setting=value ..., from step 1 on"),
        ("5:", "expected STEP: setting=value ..., from step 1 on"),
        ("5: latents.static=3", "latents.static cannot change on the way; optim.gamma_rate, "),
        ("5: latents.rate=fast", "'latents.rate=fast': 'fast' is not a number"),
        ("5: loss.radius=1.5", "loss.radius=1.5 is not a whole number"),
        ("5: optim.gamma_rate=0", "5: optim.gamma_rate: 0.0 is not positive"),
        ("5: loss.gap=1", r"5: loss.radius: 1 <= radius <= gap is needed"),
        ("5: loss.margin=1; 5: loss.margin=2", "step 5 after step 5"),
    ],
)
def test_bad_changes_are_named(text: str, said: str) -> None:
    """One line, when the settings are read."""
    with pytest.raises(UserError, match=f"^train.changes: .*{said}"):
        resolve([f"train.changes={text}"])


def test_a_step_uses_the_values_of_its_number(data: Path) -> None:
    """The same bits as an engine whose settings are exchanged by hand between the steps."""
    made, by_hand = make(str(data), (TWO,)), make(str(data), ())
    losses, expected = steps(made, 0, 6), []
    for first, words in (
        (0, ()),
        (2, ("optim.gamma_rate=0.01", "loss.margin=0.5")),
        (4, ("optim.gamma_rate=0.01", "loss.margin=0.5", "latents.rate=0.002")),
    ):
        other = make(str(data), words).config
        by_hand.engine._changing = Changing(other)
        expected += steps(by_hand, first, first + 2)
    assert losses == expected
    left = everything(by_hand.engine)
    assert all(torch.equal(t, left[name]) for name, t in everything(made.engine).items())
    plain = everything((unchanged := make(str(data), ())).engine)
    assert steps(unchanged, 0, 6)[:2] == losses[:2] and steps(unchanged, 6, 7) != losses
    assert any(not torch.equal(t, left[name]) for name, t in plain.items())


def test_a_run_resumed_beyond_a_change_ends_as_one_never_stopped(
    tmp_path: Path, data: Path
) -> None:
    """Stopped before or after a change, equal bits; the log shows the rates."""
    whole = ("train.steps=6", "train.log_steps=1", TWO)
    assert train(tmp_path, data, *whole, name="whole") == 0
    rates = [line["lr/gamma"] for line in journal.read(tmp_path / "whole" / "metrics.jsonl")]
    assert rates == [0.0, 0.005] + [0.01] * 4  # the first is that of the warm-up
    expected = tensors(tmp_path / "whole", 6)
    for stop in (1, 3):
        name = f"stopped-{stop}"
        assert train(tmp_path, data, f"train.steps={stop}", TWO, name=name) == 0
        assert train(tmp_path, data, *whole, name=name) == 0
        assert differing(tensors(tmp_path / name, 6), expected) == []


def test_a_run_that_ends_early_goes_on_as_one_of_the_whole_length(
    tmp_path: Path, data: Path
) -> None:
    """`train.until` ends it done and scored; rates follow the whole length, so the end is equal."""
    whole = ("train.steps=6", "train.log_steps=1", "optim.curve=cosine")
    assert train(tmp_path, data, *whole, name="whole") == 0
    for until in (2, 4, 6):
        assert train(tmp_path, data, *whole, f"train.until={until}", name="parts") == 0
        state = read_json(tmp_path / "parts" / "run.json")
        assert (state["status"], state["step"]) == ("done", until) and state["final"]["psnr"] > 0
    assert differing(tensors(tmp_path / "parts", 6), tensors(tmp_path / "whole", 6)) == []
    rates = [
        [line["lr/gamma"] for line in journal.read(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert rates[0] == rates[1] and len(rates[0]) == 6
    with pytest.raises(UserError, match=r"^train\.until: 0 is below 1$"):
        resolve(["train.until=0"])
