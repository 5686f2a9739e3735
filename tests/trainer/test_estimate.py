"""What --dry-run promises, against the memory that real trainings take."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from data_shards.config import FEW_THREADS, MOST_THREADS
from data_shards.stream import open_manifest
from tests.support.peak import measure
from tests.support.shards import write_set
from tests.support.training import SMALL
from trainer import aside, footprint, setup
from trainer.config import Config, resolve
from trainer.estimate import estimate
from trainer.latents_config import promise_bytes
from trainer.pieces import layout
from trainer.shared import kinds_of

WIDE = (
    "latents.static_key=dataset",
    "latents.transient_key=clip",
    "latents.transient=2000",
    "networks.channels=32",
    "networks.hidden=64",
    "schedule.clips=20",
    "train.steps=10",
)
"""Rows of 188 KiB with their moments, each visited once by 10 steps of 20 clips."""
STREAMED = ("data.cache_mib=0", "checkpoint.steps=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage") / "set"
    write_set(folder, [100, 100], frames=8, size=32)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("residence", "ranks", "first", "more"),
    [
        ("device", 1, "footage", ()), ("disk", 1, "random", ()), ("host", 2, "footage", ()),
        ("host", 2, "random", STREAMED), ("disk", 1, "random", (*STREAMED, "data.workers=1")),
    ],
)  # fmt: skip
def test_a_training_takes_what_was_promised(
    residence: str, ranks: int, first: str, more: tuple[str, ...], tmp_path: Path, data: Path
) -> None:
    """No rank takes more than 1.1 times what was promised, nor was twice too much promised; with
    footage in memory, and as the full golf set is trained: footage read ahead and saves beside
    training."""
    words = (f"latents.residence={residence}", f"latents.scratch={tmp_path}",
             f"begin.latents={first}", *more)  # fmt: skip
    facts = measure(tmp_path, data, *WIDE, *words, ranks=ranks)
    assert (tmp_path / "run" / "checkpoints" / "step-00000010").is_dir()
    for told in facts:
        # A rank sees the memory that ranks share; it is there once for all of them.
        assert told["used"]["most"] <= 1.1 * (told["private"] + told["shared"]), told
    grown = max(told["used"]["most"] - told["before"]["now"] for told in facts)
    promised = max(t["private"] + t["shared"] - t["before"]["now"] for t in facts)
    assert promised <= 2 * grown, facts


def config_of(data: Path, *words: str) -> Config:
    return resolve([f"data.manifest={data}", *SMALL, *WIDE, *words])


def test_shared_memory_is_counted_once_for_a_machine(data: Path) -> None:
    """Footage, and weights, moments, average and each rank's gradients: the segments' bytes."""
    config = config_of(data)
    opened = open_manifest(config.data.manifest)
    _, floats = layout(list(setup.build_networks(config, opened.manifest).parameters()))
    footage = 200 * 8 * 3 * 32 * 32
    segments = 4 * floats * len(kinds_of(2)) + footage
    found = estimate(config, opened, ranks=2)
    assert 0.99 * segments < found.shared <= segments
    assert found.machine == 2 * found.private + found.shared
    assert "2 ranks together" in found.text()
    assert not estimate(config, opened, ranks=1).shared
    sent = config_of(data, "train.gradients=send", "data.cache_mib=0", "begin.latents=random")
    assert not estimate(sent, opened, ranks=2).shared


def test_a_save_beside_training_is_in_the_promise(data: Path) -> None:
    """Where saves are due while training goes on, a copy of what ranks share and the rows set aside
    are held beside whatever else a run does; where none are, pages and a tensor are a passing
    thing."""
    opened, words = open_manifest(str(data)), ("begin.latents=random", "latents.residence=host")
    config = config_of(data, *words)
    promise = promise_bytes(
        config.latents, static_rows=1, transient_rows=200, frames=8, world=1, batch=20
    )
    # Rows with their moments, four of them a page; all fit into what stays in memory or is queued.
    row = 8 * 2000 * 4 * 3 + 8
    assert promise.saving == 2 * 4 * row
    assert 256 * row < promise.aside < aside.HELD + aside.UNDER_WAY + 3 * 20 * row + 2**20
    apart = estimate(config, opened)
    weights = 4 * (apart.theta + apart.gamma)
    assert apart.passing["saving"] == 3 * weights + promise.saving
    for due in ("checkpoint.minutes=5", "checkpoint.steps=4"):
        beside = estimate(config_of(data, *words, due), opened)
        held = beside.memory["a save beside training"]
        assert held == 6 * weights + promise.saving + promise.aside
        assert "saving" not in beside.passing and "save beside training" in beside.text()
    waiting = config_of(data, *words, "checkpoint.minutes=5", "checkpoint.background=false")
    assert estimate(waiting, opened).passing["saving"] == apart.passing["saving"]


def test_what_grows_with_the_table_is_in_the_promise(data: Path) -> None:
    """Ten times the clips: tables on the device grow by that, those on disk by a byte a row and
    keys, and the reference search for directions says what it would bring to every rank."""
    words = ("begin.latents=random", "latents.low_rank.rank=4", "latents.low_rank.scope=dictionary")
    opened = open_manifest(str(data))
    shards = tuple(shard._replace(clips=10 * shard.clips) for shard in opened.manifest.shards)
    large = opened._replace(manifest=dataclasses.replace(opened.manifest, shards=shards))

    def sizes(name: str, *more: str) -> list[int]:
        config = config_of(data, *words, *more)
        found = [estimate(config, each) for each in (opened, large)]
        return [{**each.memory, **each.passing}[name] for each in found]

    small, grown = sizes("dictionary", "latents.residence=device")
    assert grown - small == pytest.approx(9 * 200 * 8 * 2000 * 4 * 3, rel=0.1)
    small, grown = sizes("dictionary", "latents.residence=disk")
    assert grown - small < 1800 * 20
    small, grown = sizes("finding directions", "latents.low_rank.method=gather")
    assert grown == 10 * small >= 10 * 200 * 8 * 2000 * 8
    assert sizes("finding directions", "latents.low_rank.method=gram") == [0, 0]


def test_gpus_are_reckoned_with_where_there_are_none(data: Path) -> None:
    """Networks, rows, footage and the largest of what is computed lie on each GPU; the host keeps
    pictures, and shares no weights. What is read ahead is for as many threads as there may be."""
    opened = open_manifest(str(data))
    config = config_of(data, "train.gradients=memory", "latents.residence=device")
    here, there = (estimate(config, opened, ranks=64, gpu=gpu) for gpu in (False, True))
    assert here.shared and not here.device and not there.shared
    footage, whole = 200 * 8 * 3 * 32 * 32, footprint.showing(config, opened.manifest, parameters=9)
    pictures = footprint.pictures(config, opened.manifest)
    forward = whole - 3 * 4 * 9 - pictures + 3 * 4 * (there.theta + there.gamma)
    step = footprint.step(config, opened.manifest, ranks=64)
    name, most = max(("taking a step", step), ("showing clips", forward), key=lambda x: x[1])
    assert there.device["footage, where it fits"] == footage
    assert there.device[f"at most, while {name}"] == most > 0
    assert there.device["networks and optimiser"] == 6 * 4 * (there.theta + there.gamma)
    assert there.passing["showing clips"] == pictures and "taking a step" not in there.passing
    assert "memory of each GPU:" in there.text() and "CUDA (assumed)" in there.text()
    streamed = config_of(data, "data.cache_mib=0", "begin.latents=random", "schedule.clips=64")
    few, many = (
        estimate(streamed, opened, ranks=2, gpu=gpu).memory["footage"] for gpu in (False, True)
    )
    prefetch = streamed.data.prefetch
    assert many * (prefetch + FEW_THREADS + 1) == few * (prefetch + MOST_THREADS + 1)
