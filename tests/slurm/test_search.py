"""A search as a job of a real SLURM: Ray on two nodes, trials on both, one ledger."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.cluster import NODES, Cluster
from tests.support.training import ROOT, SMALL
from tests.tuning.test_ray import side_by_side
from tuning.ledger import Ledger
from tuning.processes import PATIENCE
from tuning.records import DONE, read_records
from tuning.search import parser

SCRIPT = ROOT / "launch" / "slurm" / "search.sbatch"
SPACE = "latents.static: {low: 4, high: 12}\n"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")


def test_the_script_is_one_that_bash_reads_and_only_asks_what_search_has() -> None:
    """No syntax error, a token before Ray starts, and options that `tuning/search.py` takes."""
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    text = SCRIPT.read_text()
    assert text.index("RAY_AUTH_MODE=token") < text.index("scripts start")
    (line,) = (line for line in text.splitlines() if " -m tuning.search " in line)
    _, _, _, *given, users, _ = shlex.split(line)
    least = ["--manifest", "DIR", "--cpu-hours", "1", "--out", "DIR"]
    asked = parser().parse_intermixed_args([*given, *least])
    assert users == "$@" and asked.address == "$address:$port"


def test_the_script_leaves_trainings_their_time_to_save() -> None:
    """On this node, where the search waits for them, and on others; and then half a minute at least
    until the time limit, to have the job queued again."""
    text = SCRIPT.read_text()
    (before,) = re.findall(r"^#SBATCH --signal=B:USR1@(\d+)$", text, flags=re.MULTILINE)
    assert int(before) >= PATIENCE + 30
    assert f"since + {PATIENCE:.0f} - SECONDS" in text


@pytest.mark.slurm
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
@pytest.mark.timeout(600)
def test_a_search_runs_on_the_nodes_of_its_job(slurm: Cluster, data: Path, tmp_path: Path) -> None:
    """Two trials, each of which needs what one node has, run at the same time, one on either node;
    both are finished, their leases closed, on a Ray that asked for a token."""
    pytest.importorskip("ray.tune", reason="ray is not installed: pip install 'navsynth[tune]'")
    (tmp_path / "space.yaml").write_text(SPACE)
    out, log = tmp_path / "study", tmp_path / "log"
    fixed = [word for word in SMALL if not word.startswith("latents.static")]
    job = subprocess.run(
        ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=2", f"--output={log}",
         f"--chdir={tmp_path}", f"--export=ALL,PYTHON={sys.executable},HEAD_ADDRESS=127.0.0.1",
         str(SCRIPT), "--manifest", str(data), "--out", str(out), "--cpu-hours", "1",
         "--cpus-per-trial", "2", "--trials", "2", "--steps", "200", "--scheduler", "none",
         "--space", str(tmp_path / "space.yaml"), *fixed],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    with side_by_side(out, over=lambda: slurm.state(job) in OVER) as held:
        nodes = [psutil.Process(each.pid).environ().get("SLURMD_NODENAME") for each in held]
    assert slurm.wait_end(job) == "COMPLETED", log.read_text()
    assert sorted(map(str, nodes)) == sorted(NODES), log.read_text()
    records = read_records(out)
    assert [record.status for record in records] == [DONE, DONE], log.read_text()
    account = Ledger(out).account()
    assert not account.open() and account.spent > 0
    assert {lease.width for lease in account.leases.values()} == {2}
    assert json.loads((out / "study.json").read_text())["workers"] == 1
