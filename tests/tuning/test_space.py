"""Search spaces: priors, files, constraints, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from trainer.config import resolve
from trainer.presets import PRESETS
from tuning.space import check, default_space, load_space, space_of, values_of, words_of


@pytest.mark.parametrize("rates", [False, True])
@pytest.mark.parametrize("total", [None, 256])
def test_the_priors_are_legal_at_every_end(rates: bool, total: int | None) -> None:
    """Each end of each default range makes a config; D_t is not searched under a total."""
    space = default_space(rates=rates, total=total)
    check(space, ["preset=weizmann"])
    assert ("latents.transient" in {r.path for r in space.ranges}) == (total is None)


OF_MOMENTUM = {"optim.gamma_rate", "optim.theta_rate", "latents.rate"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_lies_strictly_inside_every_range(preset: str) -> None:
    """A search can go either way from what was given. Only rates of the paper's momentum SGD are
    elsewhere than those of Adam, so that such a preset is no point of a space with rates."""
    config, space = resolve([f"preset={preset}"]), default_space(rates=True)
    outside = set()
    for item in space.ranges:
        group, name = item.path.split(".")
        value, ends = getattr(getattr(config, group), name), item.choices or (item.low, item.high)
        if not min(ends) < value < max(ends):
            outside.add(item.path)
    if preset.endswith("_paper"):
        assert "latents.rate" in outside <= OF_MOMENTUM and values_of(space, config) is None
    else:
        assert not outside and values_of(space, config) is not None
    assert values_of(default_space(), config) is not None


def test_a_config_is_a_point_of_the_space_or_none() -> None:
    """The preset's own values where the ranges hold them; nothing where one of them does not."""
    config = resolve(["preset=weizmann"])
    found = values_of(default_space(rates=True), config)
    assert found is not None
    assert (found["latents.static"], found["loss.lambda_triplet"]) == (56, 0.1)
    assert values_of(default_space(total=256), config) is not None
    assert values_of(default_space(total=200), config) is None
    assert values_of(space_of({"loss.radius": [7, 8]}), config) is None


def test_what_a_schedule_fills_in_is_a_point_too() -> None:
    """Settings that a preset leaves null have the numbers of their schedule's kind, unless null is
    one of the choices."""
    config = resolve(["preset=folder"])
    assert config.schedule.clips is None
    space = space_of({"schedule.clips": {"low": 2, "high": 32}, "schedule.frames": [1, 4]})
    assert values_of(space, config) == {"schedule.clips": 8, "schedule.frames": 1}
    assert values_of(space_of({"schedule.clips": [None, 8]}), config) == {"schedule.clips": None}
    assert values_of(space_of({"schedule.clips": [2, 4]}), config) is None


def test_the_example_in_the_documents_is_a_space(tmp_path: Path) -> None:
    """Every range of it is legal for every preset that trains fast, and takes their sum of widths;
    schedule and rank around the defaults, which are points of it."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "tuning.md").read_text()
    file = tmp_path / "space.yaml"
    file.write_text(text.split("```yaml\n")[1].split("```")[0])
    space = load_space(str(file))
    assert {"schedule.clips", "schedule.frames", "latents.low_rank.rank"} <= {
        item.path for item in space.ranges
    }
    for preset in ("folder", "weizmann"):
        check(space, [f"preset={preset}"])
        assert values_of(space, resolve([f"preset={preset}"])) is not None


@settings(deadline=None, max_examples=20)
@given(static=st.integers(1, 255), radius=st.integers(1, 8))
def test_what_follows_from_the_values(static: int, radius: int) -> None:
    """D_s + D_t is the total, and the gap is never below the radius."""
    space = space_of({"latents.static": {"low": 1, "high": 255}, "loss.radius": [radius]},
                     total=256)  # fmt: skip
    config = resolve(words_of(space, {"latents.static": static, "loss.radius": radius}))
    assert config.latents.static + config.latents.transient == 256
    assert config.loss.gap >= config.loss.radius == radius


def test_a_file_and_its_grid(tmp_path: Path) -> None:
    """Integers stay integers, choices are kept, a logarithmic grid is even in the logarithm."""
    file = tmp_path / "space.yaml"
    file.write_text("latents.static: {low: 4, high: 64, log: true}\nnetworks.norm: [group, none]\n")
    space = load_space(str(file))
    assert [item.grid() for item in space.ranges] == [[4, 16, 64], ["group", "none"]]


def test_settings_are_added_to_the_priors(tmp_path: Path) -> None:
    """`priors` and `rates` bring the documented ranges, beside which a file names more, or another
    range of the same setting."""
    file = tmp_path / "space.yaml"
    file.write_text("{priors: true, rates: true, schedule.frames: [1, 4], loss.radius: [2]}")
    found = {item.path: item for item in load_space(str(file)).ranges}
    known = {item.path: item for item in default_space(rates=True).ranges}
    assert found.keys() == known.keys() | {"schedule.frames"}
    assert found["schedule.frames"].choices == (1, 4) and found["loss.radius"].choices == (2,)
    assert all(found[path] == item for path, item in known.items() if path != "loss.radius")
    file.write_text("{priors: true, total: 256}")
    assert load_space(str(file)) == default_space(total=256)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{priors: 3}", "priors: 3 is neither true nor false"),
        ("{priors: false, rates: false}", "nothing to search"),
        ("{latents.transient: [8], total: 40}", "latents.transient: follows from total"),
        ("latents.statc: [1]", r"latents.statc: no such setting; did you mean latents.static\?"),
        ("latents.static: {low: 4}", "is no range"),
        ("latents.static: {low: 9, high: 4}", "low < high"),
        ("latents.static: {low: 0, high: 4, log: true}", "above 0 where log"),
        ("networks.norm: {low: 0, high: 4}", "write a list"),
        ("latents.static: {low: 4.5, high: 9}", "of type int: low and high must be whole numbers"),
        ("latents.static: {low: 4, high: .inf}", "must be numbers"),
        ("total: 1", "not a sum"),
        ("{}", "nothing to search"),
        ("{latents.static: {low: 60, high: 90}, total: 40}", "leaves no width"),
    ],
)
def test_mistakes_name_the_file_and_the_path(tmp_path: Path, text: str, said: str) -> None:
    """One line each."""
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_space(str(file))
    assert "space.yaml" in str(error.value) and "\n" not in str(error.value)


def test_what_is_searched_cannot_be_fixed() -> None:
    """A word for a searched setting is refused, and so is an end that no config takes."""
    with pytest.raises(UserError, match="searched by the space already"):
        check(default_space(), ["loss.margin=1"])
    with pytest.raises(UserError, match=r"train\.average"):
        check(space_of({"train.average": [0.9, 1.5]}), [])


def test_a_radius_that_may_lie_above_a_searched_gap_is_refused() -> None:
    """Each range is fine by itself; trials with both would fail one by one."""
    wrong = {"loss.radius": {"low": 1, "high": 4}, "loss.gap": {"low": 2, "high": 8}}
    with pytest.raises(UserError, match=r"radius"):
        check(space_of(wrong), ["preset=folder", "data.manifest=any"])
    right = {**wrong, "loss.gap": {"low": 4, "high": 8}}
    check(space_of(right), ["preset=folder", "data.manifest=any"])
