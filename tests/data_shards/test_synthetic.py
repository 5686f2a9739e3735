"""Synthetic footage: known factors, the same pixels always, cells held out with their truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from data_shards.footage import SourceOptions
from data_shards.sources import synthetic


def cell(identity: str, action: str, frames: int = 16) -> np.ndarray:
    return np.stack(list(synthetic.render(identity, action, frames=frames, size=32)))


def test_same_pixels_always() -> None:
    """Rendering twice gives the same bytes, and the motions are periodic."""
    clip = cell("red-disc", "orbit", 32)
    assert clip.shape == (32, 32, 32, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip, cell("red-disc", "orbit", 32))
    assert np.array_equal(clip[:16], clip[16:])


def test_factors_show() -> None:
    """No two cells look alike, every video moves, and identities differ more than frames do."""
    names, motions = synthetic.identities(6), synthetic.actions(4)
    clips = {(i, a): cell(i, a).astype(float) for i in names for a in motions}
    cells = list(clips.values())
    for index, clip in enumerate(cells):
        assert np.abs(np.diff(clip, axis=0)).mean() > 0.3
        assert all(np.abs(clip - other).mean() > 1 for other in cells[:index])
    means = np.stack([clips[i, "turn"].mean(0) for i in names])
    assert np.abs(means[0] - means[1:]).mean((1, 2, 3)).min() > 5


@settings(deadline=None)
@given(identities=st.integers(1, 48), actions=st.integers(1, 8))
def test_held_out_cells_leave_every_label(identities: int, actions: int) -> None:
    """Every identity and action keeps a video to learn from, whatever the matrix."""
    options = SourceOptions(identities=identities, actions=actions)
    cells = synthetic.held_out(options)
    names, motions = synthetic.identities(identities), synthetic.actions(actions)
    assert len(set(names)) == identities and len(set(cells)) == len(cells)
    assert bool(cells) == (min(identities, actions) > 1)
    rest = {(i, a) for i in names for a in motions} - set(cells)
    assert {i for i, _ in rest} == set(names) and {a for _, a in rest} == set(motions)


def test_appearances_beyond_the_named_colours_are_all_different() -> None:
    """Every name once, the first 48 as before, and one with a numbered hue can be rendered."""
    names = synthetic.identities(2142)
    assert len(set(names)) == 2142 and names[:48] == synthetic.identities(48)
    assert all(name.split("-")[0] in synthetic.COLOURS for name in names[:48])
    assert names[54] == "hue232-disc"
    other = cell("red-disc", "turn").astype(float)
    assert np.abs(cell("hue232-disc", "turn") - other).mean() > 1


def test_no_two_appearances_look_the_same() -> None:
    """Hues of a shape are all different, and no numbered one is within a degree of a named one; so
    the first frames of all discs differ."""
    names = [name for name in synthetic.identities(2142) if name.endswith("-disc")]
    named, numbered = names[:8], names[8:]
    assert min(synthetic.degrees_apart(a, b) for a in named for b in numbered) >= 1
    frames = {next(synthetic.render(name, "turn", frames=1, size=64)).tobytes() for name in names}
    assert len(frames) == len(names) == 357


def test_degrees_between_appearances_go_around_the_circle() -> None:
    """Of one shape the shorter way; another shape is as far as can be."""
    assert synthetic.degrees_apart("hue350-disc", "hue010-disc") == pytest.approx(20)
    assert synthetic.degrees_apart("red-disc", "hue180-disc") == pytest.approx(180)
    assert synthetic.degrees_apart("red-disc", "red-cube") == 180


def test_limits_are_named() -> None:
    """More factors than there are is an error that says how many there are."""
    with pytest.raises(
        UserError, match=r"^identities: synthetic footage has at most 2,142, not 2143$"
    ):
        synthetic.identities(2143)
    with pytest.raises(UserError, match=r"^actions: synthetic footage has at most 8, not 9$"):
        synthetic.actions(9)
