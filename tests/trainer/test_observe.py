"""What a run hands to telemetry, seen through the last push of real trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from data_shards.stream import DataConfig, make_plan, open_manifest
from tests.support.footage import tiny_set
from tests.support.gateway import gateway
from tests.support.training import launch, train
from trainer.metrics import METRICS, series


def values_of(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_second_life_knows_the_first(tmp_path: Path) -> None:
    """Checkpoints, evaluation, restarts, an earlier stop and lost steps are all told."""
    data = tiny_set(tmp_path / "set", identities=3, actions=2, frames=6, size=32)
    assert train(tmp_path, data, "train.steps=6", "train.log_steps=2") == 0
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    state["events"].append({"kind": "non-finite", "step": 9, "time": 1234.0, "text": "stopped"})
    (tmp_path / "run" / "run.json").write_text(json.dumps(state))
    log = tmp_path / "run" / "metrics.jsonl"
    lost = json.loads(log.read_text().splitlines()[-1]) | {"step": 8}
    log.write_text(log.read_text() + json.dumps(lost | {"seconds": lost["seconds"] + 1000}) + "\n")
    with gateway() as server:
        words = ("train.steps=12", "train.log_steps=2", "checkpoint.steps=8")
        budget = ("telemetry.budget_seconds=1000000", f"telemetry.push={server.url}")
        assert train(tmp_path, data, *words, *budget) == 0
        seen = values_of(server.last[1])
    assert seen["navsynth_step",] == 12 and seen["navsynth_steps_total",] == 6
    assert seen["navsynth_restarts_total",] == 1
    assert seen["navsynth_nonfinite_total",] == 1
    assert seen["navsynth_nonfinite_timestamp_seconds",] == 1234
    assert seen["navsynth_goodput_seconds_total", "restart"] >= 1000
    assert seen["navsynth_checkpoints_total", "committed"] == 2
    assert seen["navsynth_checkpoints_total", "failed"] == 0
    assert seen["navsynth_checkpoint_seconds_count",] == 2
    assert seen["navsynth_checkpoint_bytes",] > 1000
    final = json.loads((tmp_path / "run" / "run.json").read_text())["final"]
    assert seen["navsynth_evaluation", "psnr"] == final["psnr"]
    assert seen["navsynth_rows_touched_total", "static"] == 6 * 3
    assert seen["navsynth_update_norm", "gamma"] > 0
    assert 0 < seen["navsynth_budget_spent_ratio",] < 1
    assert seen["navsynth_straggler_ratio",] == 1
    absent = {m.name for m in METRICS} - {m.name for m in METRICS for n in series(m)
              if any(n == key[0] for key in seen)}  # fmt: skip
    assert absent == {"navsynth_gpu_utilisation_ratio", "navsynth_rank_energy_ratio"}


@pytest.mark.ranks
@pytest.mark.parametrize(
    "words", [(), ("data.cache_mib=0", "begin.latents=random")], ids=["memory", "streamed"]
)
def test_a_damaged_clip_is_counted_once(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Known to both ranks from the start, or met by one after the other in different epochs, it is
    one clip in every line of the log, and in the report."""
    data = tiny_set(tmp_path / "set", identities=3, actions=2, frames=6, size=32)
    shard = min(data.glob("*.tar"))
    raw = bytearray(shard.read_bytes())
    raw[700] ^= 1
    shard.write_bytes(raw)
    plan = make_plan(open_manifest(str(data)), DataConfig(), seed=0, batch=6)
    places = {plan.batch(step).clip_B.tolist().index(0) // 3 for step in range(12)}
    assert places == {0, 1}, "both ranks meet clip 0"
    words = (*words, "train.steps=12", "schedule.clips=6", "data.on_damage=quarantine")
    ended = launch(tmp_path, data, *words, ranks=2)
    assert ended.returncode == 0, ended.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["shards/damaged"] for line in lines] == [1, 1, 1]
    told = (tmp_path / "run" / "report.html").read_text()
    assert "Damaged clips, left out of training: 1. Copy their shards again." in told
