"""The tables of the full golf set, 583,508 clips of 20,268 videos, on one rank."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from data_shards.config import DataConfig
from data_shards.keys import row_keys
from data_shards.manifest import MANIFEST
from data_shards.memory import decoded_bytes
from data_shards.rows import rows_of
from data_shards.stream import OpenManifest, make_plan, open_manifest
from tests.support.peak import resident
from tests.support.shards import GOLF_CLIPS, GOLF_VIDEOS, write_golf_tables


@pytest.fixture(scope="module")
def golf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golf")
    write_golf_tables(folder)
    return folder


def look(opened: OpenManifest) -> None:
    """What every rank does before its first step, and the batches of 100 steps."""
    assert len(opened.manifest.fingerprint) == 64
    assert decoded_bytes(opened) == GOLF_CLIPS * 16 * 3 * 128 * 128
    keys = row_keys(opened.manifest, opened.table, "clip")
    assert len(np.unique(keys)) == GOLF_CLIPS
    assert len(np.unique(row_keys(opened.manifest, opened.table, "video"))) == GOLF_VIDEOS
    plan = make_plan(opened, DataConfig(), seed=0, batch=512)
    for step in range(100):
        rows = rows_of(opened, plan.batch(step).clip_B, "video")
        assert int(rows.min()) >= 0 and int(rows.max()) < GOLF_VIDEOS


def test_a_manifest_of_the_full_set_is_small(golf: Path) -> None:
    """A line a video and none a clip: under 4 MB of JSON, and one epoch holds every clip once."""
    assert (golf / MANIFEST).stat().st_size < 4e6
    opened = open_manifest(str(golf))
    plan = make_plan(opened, DataConfig(), seed=0, batch=GOLF_CLIPS)
    assert np.array_equal(np.sort(plan.batch(0).clip_B), np.arange(GOLF_CLIPS))


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_rank_holds_the_full_set_in_little_memory(golf: Path) -> None:
    """Manifest, mapped table, keys and plan take less than 200 MB at their worst moment."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident()["now"]
    look(open_manifest(str(golf)))
    assert resident()["most"] - before < 200e6
