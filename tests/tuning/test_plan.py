"""From a command line to a plan: what the search decides itself, and which footage it is of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_shards.errors import UserError
from data_shards.stream import open_manifest
from tests.support.footage import tiny_set
from tuning.plan import Planned, footage_of, plan
from tuning.search import parser

SPACE = "latents.static: {low: 4, high: 12}\nloss.margin: {low: 0.5, high: 2.0, log: true}\n"
CHANGES = "train.changes=2: loss.margin=1"


def planned(folder: Path, space: str, *more: str, manifest: str = "nowhere") -> Planned:
    """What a command line with a file of ranges amounts to."""
    file = folder / "space.yaml"
    file.write_text(space)
    line = ["--manifest", manifest, "--cpu-hours", "1", "--space", str(file), "--out",
            str(folder / "study"), *more]  # fmt: skip
    return plan(parser().parse_intermixed_args(line))


@pytest.mark.parametrize(
    ("space", "more", "said"),
    [
        (
            SPACE,
            ("--rates",),
            "--rates: FILE says what is searched; put the rates in there instead",
        ),
        (SPACE, ("train.until=9",), "train.until=9: the search sets train.until itself"),
        (
            "train.until: {low: 9, high: 18}\n",
            (),
            "FILE: train.until: the search sets it itself; leave it out",
        ),
        ("seed: [0, 1]\n", (), "FILE: seed: the search sets it itself; leave it out"),
        (
            SPACE,
            ("--searcher", "pb2", CHANGES),
            f"{CHANGES}: the search sets train.changes itself",
        ),
        (
            f"{SPACE}train.changes: ['', '2: loss.margin=1']\n",
            ("--searcher", "pb2"),
            "FILE: train.changes: the search sets it itself; leave it out",
        ),
    ],
)
def test_what_a_search_would_not_do_is_refused(
    tmp_path: Path, space: str, more: tuple[str, ...], said: str
) -> None:
    """Options that another one overrides, and settings that trials get from the search: by name,
    before any footage is looked at."""
    with pytest.raises(UserError) as error:
        planned(tmp_path, space, *more)
    assert str(error.value) == said.replace("FILE", str(tmp_path / "space.yaml"))


def test_trials_may_change_on_the_way_where_no_population_does(tmp_path: Path) -> None:
    """`train.changes` among the words holds for all trials of any other searcher."""
    data = tiny_set(tmp_path)
    found = planned(tmp_path, SPACE, CHANGES, manifest=str(data))
    assert CHANGES in found.settings.words
    assert found.settings.footage == open_manifest(str(data)).manifest.fingerprint


def test_cells_that_are_held_out_are_part_of_the_footage(tmp_path: Path) -> None:
    """Scores may come from them: without them, or with others, it is other footage; named by its
    folder or by its manifest, it is the same."""
    data = tiny_set(tmp_path, hold_out=(("red-disc", "turn"),))
    manifest = open_manifest(str(data)).manifest
    known = footage_of(manifest, where=str(data))
    assert footage_of(manifest, where=str(data / "manifest.json")) == known
    shutil.rmtree(data / "held-out")
    without = footage_of(manifest, where=str(data))
    tiny_set(tmp_path / "other").rename(data / "held-out")
    assert len({known, without, footage_of(manifest, where=str(data))}) == 3
