"""A search under a budget of GPU-hours: trials that share a GPU, each charged its fraction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.tuning_kills import until
from data_shards.cores import cores
from tests.support.footage import tiny_set
from tests.tuning.test_ray import side_by_side
from tests.tuning.test_search import FIXED, SPACE, needs_ray, search
from tuning import processes
from tuning.ledger import Ledger
from tuning.records import DONE, folder_of, read_records


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(cores() < 2, reason="two trials at a time need two cores")
def test_two_trials_share_a_gpu(tmp_path: Path) -> None:
    """Half of one each: both train on it at the same time, both are finished and charged for a
    half, and nothing of the search is left alive."""
    needs_ray()
    data, out = tiny_set(tmp_path / "data", size=32), tmp_path / "study"
    (tmp_path / "space.yaml").write_text(SPACE)
    driver = search(
        ["--manifest", str(data), "--gpu-hours", "0.1", "--gpus-per-trial", "0.5", "--out",
         str(out), "--space", str(tmp_path / "space.yaml"), "--searcher", "random",
         "--scheduler", "none", "--trials", "2", "--steps", "200", *FIXED]
    )  # fmt: skip
    try:
        with side_by_side(out, over=lambda: driver.poll() is not None) as held:
            below = processes.descendants(driver.pid)
        told, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0 and len(held) == 2, told
    records, account = read_records(out), Ledger(out).account()
    assert [record.status for record in records] == [DONE, DONE], told
    for record in records:
        run = json.loads((folder_of(out, record.id) / "run.json").read_text())
        assert "on 1 process, cuda" in str(run["events"])
    assert {lease.width for lease in account.leases.values()} == {0.5} and not account.open()
    until(lambda: not any(map(processes.alive, (*held, *below))), "the end of every process")
