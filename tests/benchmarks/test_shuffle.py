"""The benchmark of the order of clips: its figures against loops, and where its table goes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pages, shuffle
from benchmarks.shuffle import Set, judge, main, share


def test_figures_are_those_of_loops_over_places_and_batches() -> None:
    """A permutation of 50 clips in shards of different sizes, looked at clip by clip; storage order
    has no displacement, and all neighbours together but those between two batches."""
    counts, batch = [7, 20, 3, 20], 8
    order = np.random.default_rng(1).permutation(50)
    moved = [abs(order.tolist().index(clip) - clip) for clip in range(50)]
    batches = [order[first : first + batch].tolist() for first in range(0, 50, batch)]
    shard_of = [number for number, count in enumerate(counts) for _ in range(count)]
    met = [len({shard_of[clip] for clip in one}) for one in batches if len(one) == batch]
    together = sum(clip in one and clip + 1 in one for clip in range(49) for one in batches)
    found = judge(order, counts, batch=batch)
    assert found == pytest.approx((np.mean(moved) / (50 / 3), np.mean(met), together / 50))
    still = judge(np.arange(50), counts, batch=batch)
    assert (still.displacement, still.neighbours) == (0.0, (50 - len(batches)) / 50)


def test_shares_keep_two_digits() -> None:
    """Whatever their size."""
    assert [share(x) for x in (0.0000579, 0.0304, 0.03, 0.42)] == [
        "0.0058 %", "3.0 %", "3.0 %", "42 %"
    ]  # fmt: skip


def test_a_set_of_one_group_and_block_is_shuffled_as_a_true_permutation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over 200 epochs of 100 clips every figure is that of permutations to within a tenth, and with
    blocks of a batch it is not; the table is on the page."""
    sets = (Set("small", [25] * 4, 4, 100), Set("narrow", [25] * 4, 1, 10))
    monkeypatch.setattr(shuffle, "SETS", sets)
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*pages.marks("shuffle")))
    assert main(["--epochs", "200", "--batch", "10", "--write", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    small, narrow = told["sets"]
    assert list(small["plan"].values()) == pytest.approx(list(small["true"].values()), rel=0.1)
    assert narrow["plan"]["shards"] < 0.5 * narrow["true"]["shards"]
    assert narrow["plan"]["neighbours"] > 5 * narrow["true"]["neighbours"]
    assert f"| small | 4 shards, blocks of 100 | {small['plan']['displacement']:.2f} (" in (
        page.read_text()
    )
