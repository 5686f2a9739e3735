"""Searchers other than the default on a real local Ray: each draws what it is said to draw, of
settings beyond the default space too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.footage import tiny_set
from tests.support.training import ROOT, SMALL, environment
from tests.tuning.test_search import needs_ray
from trainer.config import resolve
from tuning.ledger import Ledger
from tuning.records import DONE, STOPPED, Record, folder_of, read_records, read_settings
from tuning.sampling import Sampler
from tuning.space import load_space, values_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data"), identities=3, actions=2, frames=4, size=32)


def searched(out: Path, data: Path, space: str, *more: str) -> list[Record]:
    """Trials of a finished search over a space, one at a time, of nine steps each."""
    needs_ray()
    file = out.parent / "space.yaml"
    file.write_text(space)
    fixed = [word for word in SMALL if word.split("=")[0] not in space]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tuning" / "search.py"), "--manifest", str(data),
         "--cpu-hours", "1", "--space", str(file), "--out", str(out), "--steps", "9",
         "--max-concurrent", "1", *more, *fixed],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not Ledger(out).account().open()
    return read_records(out)


def drawn_again(out: Path, records: list[Record], searcher: str) -> list[dict]:
    """What a sampler of that name draws when it is told what these trials gave, one by one."""
    settings, space = read_settings(out), load_space(str(out.parent / "space.yaml"))
    first = values_of(space, resolve(settings.words))
    assert first is not None
    sampler = Sampler(space, ("psnr",), [], searcher=searcher, seed=settings.seed, first=first)
    values = []
    for record in records:
        drawn = sampler.draw()
        assert drawn is not None and drawn.name == record.id
        values.append(drawn.values)
        sampler.tell(record)
    assert values[0] == first
    return values


def test_random_search_over_schedule_and_rank(tmp_path: Path, data: Path) -> None:
    """Clips of a step and rho: the configuration given, which leaves the clips to its schedule,
    comes first; every trial trains with its values; the page says which setting tells, and has an
    axis for each."""
    out = tmp_path / "study"
    space = "schedule.clips: {low: 2, high: 9}\nlatents.low_rank.rank: [0, 2]\n"
    more = ("--searcher", "random", "--scheduler", "none", "--trials", "4")
    records = searched(out, data, space, *more)
    assert [record.status for record in records] == [DONE] * 4
    values = [record.values for record in records]
    assert values[0] == {"schedule.clips": 8, "latents.low_rank.rank": 0}
    assert values == drawn_again(out, records, "random")
    assert {each["latents.low_rank.rank"] for each in values} == {0, 2}
    for record in records:
        config = resolve(file=str(folder_of(out, record.id) / "config.yaml"))
        assert config.schedule.clips == record.values["schedule.clips"]
        assert config.latents.low_rank.rank == record.values["latents.low_rank.rank"]
    page = (out / "report.html").read_text()
    importance, parallel = page.split("<h2>Parallel coordinates</h2>")
    assert all(f"<tr><td>{name}</td>" in importance for name in values[0])
    axes = parallel.split("<h2>")[0]
    assert axes.count('font-weight="600"') == 2 and axes.count("<polyline") == 4


def test_bohb_beside_hyperband(tmp_path: Path, data: Path) -> None:
    """Without a word about a scheduler trials are compared in brackets; those that are stopped
    count with their rungs, and what is drawn is what the sampler of that name draws."""
    out = tmp_path / "study"
    space = "latents.static: {low: 4, high: 256}\noptim.gamma_rate: {low: 0.0005, high: 0.5}\n"
    records = searched(out, data, space, "--searcher", "bohb", "--trials", "8")
    settings = json.loads((out / "study.json").read_text())
    assert settings["rungs"] == [1, 3]
    assert {record.status for record in records} <= {DONE, STOPPED} and len(records) == 8
    assert records[0].status == DONE
    rungs = [[step for step, _ in record.rungs] for record in records]
    assert all(each in ([], [1], [1, 3], [3]) for each in rungs)
    assert [record.values for record in records] == drawn_again(out, records, "bohb")
