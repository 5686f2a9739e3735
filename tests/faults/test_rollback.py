"""Steps that are not finite, and runs that go back with lower rates instead of ending."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.training import differing, launch, run_script, tensors, train
from trainer import commit

LARGE, FACTOR = 2.0**90, 2.0**-100
WORDS = ("train.steps=12", "train.log_steps=1", "checkpoint.steps=4", "train.rollback=2",
         "optim.warmup=0")  # fmt: skip


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def kinds(run: Path) -> list[tuple[str, int]]:
    return [(event["kind"], event["step"]) for event in record(run)["events"]]


def rates(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [json.loads(line)["lr/theta"] for line in lines]


def test_rates_that_are_too_high_are_lowered_until_the_run_holds(
    tmp_path: Path, data: Path
) -> None:
    """A run that diverges goes back to its beginning and is from there on, bit for bit, the run
    that was given the lower rates; without rollbacks left it ends with code 3."""
    high = (f"optim.gamma_rate={LARGE}", f"optim.theta_rate={LARGE}", "latents.rate=0.5")
    low = (f"optim.gamma_rate={LARGE * FACTOR}", f"optim.theta_rate={LARGE * FACTOR}",
           f"latents.rate={0.5 * FACTOR}")  # fmt: skip
    steps = ("train.steps=8", "train.log_steps=1")
    refused = launch(tmp_path, data, *steps, *high, name="refused")
    assert refused.returncode == 3 and record(tmp_path / "refused")["status"] == "non-finite"
    back = ("train.rollback=1", f"train.rollback_rate={FACTOR}")
    assert train(tmp_path, data, *steps, *high, *back) == 0
    run = tmp_path / "run"
    (bad,) = [step for kind, step in kinds(run) if kind == "non-finite"]
    assert kinds(run) == [("started", 0), ("non-finite", bad), ("rolled-back", 0), ("finished", 8)]
    assert f"step {bad} is not finite" in record(run)["events"][2]["text"]
    assert (run / "nonfinite" / commit.step_name(bad) / "rank-0.safetensors").exists()
    assert max(rates(run)) == LARGE * FACTOR
    assert train(tmp_path, data, *steps, *low, name="low") == 0
    assert differing(tensors(run, 8), tensors(tmp_path / "low", 8)) == []


POISON = """
import os, signal, sys
from trainer import engine
doomed, rank, lowered = int(sys.argv.pop(1)), int(sys.argv.pop(1)), [False]
measure, update = engine.Engine.measure, engine.Engine.update

def poisoned(self, batch, *, step, moves):
    if step == doomed and lowered[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    measured = measure(self, batch, step=step, moves=moves)
    if step == 7 and not lowered[0] and self.ranks.comm.rank == rank:
        measured.terms.fill_(float("nan"))
        measured = measured._replace(finite=False)
    return measured

def noted(self, *, step, moves, factor):
    lowered[0] = factor < 1
    update(self, step=step, moves=moves, factor=factor)

engine.Engine.measure, engine.Engine.update = poisoned, noted
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict:
    """The last checkpoint of a run that goes back once and is never killed."""
    folder = tmp_path_factory.mktemp("rolled-back")
    ended = run_script(folder / "s.py", POISON, folder, data, *WORDS, args=("-1", "0"))
    assert ended.returncode == 0, ended.stderr
    run = folder / "run"
    assert kinds(run) == [("started", 0), ("non-finite", 7), ("rolled-back", 6), ("finished", 12)]
    usual = rates(run)
    assert usual == [usual[0]] * 6 + [usual[0] / 2] * 6
    saved = json.loads((run / "checkpoints" / commit.step_name(12) / "state.json").read_text())
    assert saved["rollbacks"] == 1
    return tensors(run, 12)


@pytest.mark.parametrize("doomed", [7, 11])
def test_killed_after_going_back_it_ends_on_the_same_bits(
    tmp_path: Path, data: Path, straight: dict, doomed: int
) -> None:
    """kill -9 after the rollback, before and after the save that knows of it: the run resumes, goes
    back again where it must, and ends as if never killed."""
    script = tmp_path / "s.py"
    killed = run_script(script, POISON, tmp_path, data, *WORDS, args=(str(doomed), "0"))
    assert killed.returncode == -9, killed.stderr
    again = run_script(script, POISON, tmp_path, data, *WORDS, args=("-1", "0"))
    assert again.returncode == 0, again.stderr
    assert differing(tensors(tmp_path / "run", 12), straight) == []


@pytest.mark.ranks
def test_all_ranks_go_back_when_one_must(tmp_path: Path, data: Path) -> None:
    """What only the second rank sees takes both back, and both finish."""
    ended = run_script(tmp_path / "s.py", POISON, tmp_path, data, *WORDS, args=("-1", "1"), ranks=2)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "run"
    assert kinds(run) == [("started", 0), ("non-finite", 7), ("rolled-back", 6), ("finished", 12)]
    assert "rank 1: terms" in record(run)["events"][2]["text"]


def test_no_rollback_is_left(tmp_path: Path, data: Path) -> None:
    """A step that stays bad at every rate ends the run with code 3 after as many rollbacks as are
    allowed."""
    text = POISON.replace("not lowered[0] and ", "")
    ended = run_script(tmp_path / "s.py", text, tmp_path, data, *WORDS, args=("-1", "0"))
    assert ended.returncode == 3 and "step 7 is not finite" in ended.stderr, ended.stderr
    told = [("non-finite", 7), ("rolled-back", 6)]
    assert kinds(tmp_path / "run") == [("started", 0), *told, *told, ("non-finite", 7)]
    assert record(tmp_path / "run")["events"][-2]["factor"] == 0.25
