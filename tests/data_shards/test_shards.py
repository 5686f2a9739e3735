"""Shards on a disk that refuses: opened anew, waited for, and never taken for damaged."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_shards.config import DAMAGE, DataConfig
from data_shards.dataset import ClipReader, Request
from data_shards.errors import UserError
from data_shards.shards import Shards
from data_shards.store import Store
from data_shards.stream import open_manifest
from tests.support.shards import pixels, write_set

CLIPS = 3
refusing = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc/self/mem")


def on_a_disk_that_refuses(folder: Path, config: DataConfig) -> ClipReader:
    """A reader of clips that lie in a file of which the kernel refuses the first bytes (EIO): the
    memory of this process, which never begins at address zero."""
    write_set(folder, (CLIPS,))
    opened = open_manifest(str(folder), config=config)
    shard = opened.manifest.shards[0]._replace(file="mem")
    manifest = dataclasses.replace(opened.manifest, shards=(shard,))
    store = Store("/proc/self", timeout=config.timeout_seconds, attempts=config.attempts)
    return ClipReader(opened._replace(manifest=manifest, shards=Shards(store, manifest, config)))


def test_a_descriptor_that_went_stale_is_opened_anew(tmp_path):
    """What was opened once and refuses now costs a retry and no clip."""
    write_set(tmp_path, (CLIPS,))
    reader = ClipReader(open_manifest(str(tmp_path)))
    shards = reader.opened.shards
    assert len(list(reader.clips(np.arange(CLIPS)))) == CLIPS
    assert shards.store.retries == 0
    with (tmp_path / "shard-00000.tar").open("ab") as other:  # nothing can be read from it
        os.dup2(other.fileno(), shards._files[0].descriptor)
    for slot, pixels_THWC, _ in reader.clips(np.arange(CLIPS)):
        np.testing.assert_array_equal(pixels_THWC, pixels(slot, 2, 4))
    assert shards.store.retries == 1


@refusing
@pytest.mark.parametrize("on_damage", DAMAGE)
def test_a_disk_that_keeps_refusing_is_an_error_under_every_policy(tmp_path, on_damage):
    """The shard is named after as many tries as were asked for; none of its clips is damaged."""
    reader = on_a_disk_that_refuses(tmp_path, DataConfig(attempts=3, on_damage=on_damage))
    part = reader[Request(0, np.arange(CLIPS), np.zeros(CLIPS, np.int64))]
    assert part.error.startswith("/proc/self/mem: Input/output error; ")
    assert part.damages == () and not part.valid_B.any()
    assert part.retries == 2


@refusing
def test_closing_does_not_wait_for_a_disk_that_refuses(tmp_path):
    """Closed while it waits, a read gives up at once, long before its tries are over."""
    reader = on_a_disk_that_refuses(tmp_path, DataConfig(attempts=1000))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: list(reader.clips(np.arange(CLIPS))))
        while not reading.done():
            time.sleep(0.02)
            reader.opened.shards.close()
        with pytest.raises(UserError, match="Input/output error"):
            reading.result()
    assert reader.opened.shards.store.retries < 10


@pytest.mark.parametrize(("file", "call"), [("manifest.json", "read_bytes"), ("clips.npy", "open")])
def test_a_manifest_is_read_again_where_the_disk_refuses_for_a_moment(
    file: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is its clip table; a disk that goes on refusing is named, and nobody is told to prepare
    footage that is there."""
    write_set(tmp_path, (CLIPS,))
    refusals, real = [2], getattr(Path, call)

    def refuse(self: Path, *args: object, **named: object) -> object:
        if self.name == file and refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.EIO, "Input/output error", str(self))
        return real(self, *args, **named)

    monkeypatch.setattr(Path, call, refuse)
    assert open_manifest(str(tmp_path)).shards.store.retries == 2
    refusals[0] = 3
    with pytest.raises(UserError, match=f"{file}: Input/output error; check that disk"):
        open_manifest(str(tmp_path), config=DataConfig(attempts=2))
