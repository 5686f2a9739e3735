"""A search as a job of a real SLURM: Ray on two nodes, trials on both, one ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.training import ROOT, SMALL
from tuning.ledger import Ledger
from tuning.records import DONE, read_records

SCRIPT = ROOT / "launch" / "slurm" / "search.sbatch"
SPACE = "latents.static: {low: 4, high: 12}\n"


def test_the_script_is_one_that_bash_reads_and_only_asks_what_search_has() -> None:
    """No syntax error, a token before Ray starts, and an option that `tuning/search.py` knows."""
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    text = SCRIPT.read_text()
    assert text.index("RAY_AUTH_MODE=token") < text.index("scripts start")
    assert "--signal=B:USR1@120" in text and 'tuning.search --address "$address:$port"' in text


@pytest.mark.slurm
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
@pytest.mark.timeout(600)
def test_a_search_runs_on_the_nodes_of_its_job(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    """Two trials, finished, their leases closed, on a Ray that asked for a token."""
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    (tmp_path / "space.yaml").write_text(SPACE)
    out, log = tmp_path / "study", tmp_path / "log"
    fixed = [word for word in SMALL if not word.startswith("latents.static")]
    job = subprocess.run(
        ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=2", f"--output={log}",
         f"--chdir={tmp_path}", f"--export=ALL,PYTHON={sys.executable},HEAD_ADDRESS=127.0.0.1",
         str(SCRIPT), "--manifest", str(data), "--out", str(out), "--cpu-hours", "1",
         "--trials", "2", "--steps", "6", "--scheduler", "none", "--space",
         str(tmp_path / "space.yaml"), *fixed],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert slurm.wait_end(job) == "COMPLETED", log.read_text()
    records = read_records(out)
    assert [record.status for record in records] == [DONE, DONE], log.read_text()
    account = Ledger(out).account()
    assert not account.open() and account.spent > 0
    assert json.loads((out / "study.json").read_text())["workers"] == 1
