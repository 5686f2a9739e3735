"""What a checkpoint knows of the place in the data."""

from __future__ import annotations

import json
from pathlib import Path

from data_shards.manifest import read_manifest
from tests.support.footage import tiny_set
from tests.support.training import tensors, train
from trainer import commit


def test_the_place_in_the_data_is_a_few_numbers(tmp_path: Path) -> None:
    """A checkpoint holds weights, rows and at most 1 KB beside: the step and what gives it its
    meaning, the same for four times as many clips."""
    sizes = {"identities": 3, "actions": 2, "frames": 6, "size": 32}
    data = tiny_set(tmp_path / "data", **sizes)
    many = tiny_set(tmp_path / "many", **sizes, length=24, windows="all")
    states = []
    for name, footage, clips in (("few", data, 6), ("many", many, 24)):
        facts, run = read_manifest(footage), tmp_path / name
        assert facts.clips == clips
        assert train(tmp_path, footage, "train.steps=4", "train.pictures=false", name=name) == 0
        files = [key.split("/", 1) for key in tensors(run, 4)]
        common = {f"common-{kind}" for kind in ("networks", "optimiser", "average")}
        assert {kind for kind, _ in files} == {"own", *common}
        rows = {key.split(".")[0] for kind, key in files if kind == "own"}
        assert rows == {"static", "transient", "dictionary"}
        raw = (run / "checkpoints" / commit.step_name(4) / commit.STATE).read_bytes()
        assert len(raw) <= 1024
        state = json.loads(raw)
        assert state.pop("fingerprint") == facts.fingerprint and state.pop("seconds") > 0
        states.append(state)
    assert states[0] == states[1]
    data = ["clips", "order", "rollbacks", "seed", "shuffle_block", "shuffle_shards", "static_key"]
    assert sorted(states[0]) == [*data, "step", "transient_key", "visit_steps"]
