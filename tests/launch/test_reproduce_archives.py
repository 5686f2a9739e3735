"""The original data sets in their own layouts: each is recognised below --data, and prepared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import UserError
from data_shards.manifest import Manifest
from launch.reproduce import footage
from launch.reproduce.digests import files_digest, footage_digest
from launch.reproduce.footage import FOUND, FootageSet, cells_of, find_sets, manifest_of, prepared
from launch.reproduce.stages.unseen import split
from tests.support import raw_footage as raw

FRAMES, SIZE = 4, 16


def only_set(where: Path) -> FootageSet:
    """The one that is there beside synthetic footage."""
    synthetic, found = find_sets(str(where))
    assert not synthetic.root
    return found


def facts_of(found: FootageSet, out: Path, name: str = "all", **words) -> Manifest:
    return manifest_of(prepared(found, out=out, name=name, frames=FRAMES, size=SIZE, **words))


def test_weizmann_avi(tmp_path: Path) -> None:
    """Videos PERSON_ACTION.avi, a digit for a second take: a matrix of which cells are held out
    and an action is unseen."""
    for number, name in enumerate(("daria_bend", "daria_run", "lena_bend", "lena_run1", "lena_run2",
                                   "ido_bend", "ido_run")):  # fmt: skip
        clip = raw.moving(FRAMES + 2, shade=9 * number)
        raw.write_video(tmp_path / "data" / "weizmann" / f"{name}.avi", clip)
    found = only_set(tmp_path / "data")
    assert (found.name, found.preset, found.held_out) == ("weizmann", "weizmann", 20)
    facts = facts_of(found, tmp_path)
    assert len(facts.videos) == 7 and facts.actions == ("bend", "run")
    assert facts.identities == ("daria", "ido", "lena")
    kept, new = split(facts, found.unseen)
    assert len(kept) == 3 and all("run" in name for name in new)
    cells = cells_of(facts, 2)
    apart = prepared(found, out=tmp_path, name="cells", frames=FRAMES, size=SIZE, hold_out=cells)
    assert len(manifest_of(footage.held_out_folder(apart)).videos) >= 2
    whole = facts_of(found, tmp_path, "whole", windows="whole")
    assert whole.windows == "whole" and whole.videos[0].frames == FRAMES + 2


@pytest.mark.parametrize("archive", ["", "golf.tar", "golf.tar.gz", "golf.tar.bz2"])
def test_golf_as_a_folder_and_as_an_archive(tmp_path: Path, archive: str) -> None:
    """Both give the same videos; those that are kept from training are named and prepared alike."""
    made = raw.golf(tmp_path / ("in" if archive else "data"), videos=6, segments=(FRAMES, 6))
    if archive:
        (tmp_path / "data").mkdir()
        raw.pack(made, tmp_path / "data" / archive)
    found = only_set(tmp_path / "data")
    assert (found.name, found.limit) == ("golf", 500)
    assert Path(found.root).name == (archive or "golf")
    facts = facts_of(found, tmp_path)
    assert len(facts.videos) == facts.clips == 6
    kept, new = split(facts, found.unseen)
    seen = facts_of(found, tmp_path, "seen", only=kept)
    unseen = facts_of(found, tmp_path, "unseen", only=new)
    assert [v.name for v in seen.videos] == kept and [v.name for v in unseen.videos] == new
    drawn = facts_of(replace(found, limit=4), tmp_path, "drawn")
    assert len(drawn.videos) == 4


def test_a_golf_folder_comes_before_its_archive(tmp_path: Path) -> None:
    """What is unpacked is read faster; of two archives the published one is taken."""
    for name in ("golf.tar", "golf.tar.bz2"):
        (tmp_path / name).write_bytes(b"")
    assert Path(only_set(tmp_path).root).name == "golf.tar.bz2"
    (tmp_path / "golf").mkdir()
    assert Path(only_set(tmp_path).root).name == "golf"


def test_another_archive_is_prepared_anew(tmp_path: Path) -> None:
    """An archive is known by its size and time, as the files of a folder are."""
    path = raw.pack(raw.golf(tmp_path / "in", videos=2), tmp_path / "golf.tar")
    before = files_digest(str(path)), footage_digest(str(path))
    assert before == (files_digest(str(path)), footage_digest(str(path)))
    with path.open("ab") as file:
        file.write(bytes(512))
    after = files_digest(str(path)), footage_digest(str(path))
    assert before[0] != after[0] and before[1] != after[1]


@pytest.mark.parametrize("folder", ["rendered_chairs", "chair_cad"])
def test_chairs_are_drawn_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Under either name: the original 1,393 models are 820, a small part of them is taken whole; a
    folder beside the models that holds no views does not count."""
    assert FOUND[folder].limit == 820
    root = raw.chairs(tmp_path / "data" / folder, models=5, views=FRAMES)
    (root / "licences").mkdir()
    whole = only_set(tmp_path / "data")
    assert whole.limit == 0 and whole.preset == "chair_cad"
    assert len(facts_of(whole, tmp_path).videos) == 5
    for limit, taken in ((5, 0), (4, 4)):
        monkeypatch.setitem(FOUND, folder, replace(FOUND[folder], limit=limit))
        assert only_set(tmp_path / "data").limit == taken
    facts = facts_of(only_set(tmp_path / "data"), tmp_path, "drawn")
    assert len(facts.videos) == 4 and facts.frames == FRAMES
    assert all(np.array([video.frames for video in facts.videos]) == FRAMES)


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    """The folders and archives that would be."""
    (tmp_path / "other").mkdir()
    (tmp_path / "weizmann.tar").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        find_sets(str(tmp_path))
    assert str(caught.value) == (
        f"--data {tmp_path}: holds none of the folders rendered_chairs, chair_cad, "
        "weizmann_strips, weizmann, golf, nor golf.tar.bz2, golf.tar.gz, golf.tar"
    )
