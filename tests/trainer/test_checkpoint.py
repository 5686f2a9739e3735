"""Checkpoints: what is saved comes back, on any number of ranks, whatever happens while saving."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.cores import SAVING
from data_shards.errors import UserError
from tests.support import checkpoints as little
from tests.support.dictionaries import make, train
from tests.support.ranks import run_ranks
from trainer import aside, checkpoint, commit, saved, streamed
from trainer.checkpoint import TOUCH, CheckpointConfig, Checkpointer
from trainer.comm import Comm
from trainer.retention import kept
from trainer.saved import damage_of
from trainer.share import explain

ROOT = Path(__file__).resolve().parents[2]


def saver(folder: Path, comm: Comm | None = None, **settings: object) -> Checkpointer:
    return Checkpointer(folder, CheckpointConfig(**settings), comm=comm or Comm())  # type: ignore


def save_two(comm: Comm, folder: str, background: bool) -> str:
    checkpoints = saver(Path(folder), comm)
    little.save(checkpoints, 7, comm, background=background)
    path = checkpoints.finish() or checkpoints.latest()
    checkpoints.close()
    return str(path)


@pytest.mark.ranks
@pytest.mark.parametrize("background", [False, True])
def test_many_ranks_save_and_one_reads(tmp_path: Path, background: bool) -> None:
    """A checkpoint of three ranks is one folder that a single process reads exactly."""
    paths = run_ranks(save_two, 3, str(tmp_path), background)
    assert len(set(paths)) == 1
    assert little.holds(Path(paths[0]), 7)
    names = sorted(file.name for file in Path(paths[0]).iterdir())
    own = [f"own-{rank}-of-3.safetensors" for rank in range(3)]
    common = ["common-average.safetensors", "common-networks.safetensors"]
    assert names == sorted(["MANIFEST.json", "state.json", *common, *own])


def test_a_checkpoint_that_is_replaced_while_it_is_looked_at_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader gets the newer one of a training that goes on meanwhile; who asked for the step that
    is gone is told so. One that is damaged and there is damaged."""
    training, reader = saver(tmp_path, keep=1, best=False), saver(tmp_path)
    little.save(training, 1, Comm())
    look, newer = checkpoint.agreed_damage, iter((2, 3))

    def while_it_goes_on(folder: Path, **more: Any) -> str | None:
        if (step := next(newer, None)) is not None:
            little.save(training, step, Comm())
            training.finish()
            training._thread.submit(lambda: None).result()  # what it dropped is removed
        return look(folder, **more)

    monkeypatch.setattr(checkpoint, "agreed_damage", while_it_goes_on)
    path = reader.latest()
    assert path is not None and path.name == "step-00000003" and little.holds(path, 3)
    newer = iter((4,))
    with pytest.raises(UserError, match="step-00000003: is gone; a training that goes on has"):
        reader.open(reader.at(3))
    (tmp_path / "checkpoints" / "step-00000004" / "MANIFEST.json").write_text("{}")
    with pytest.raises(UserError, match="no loadable checkpoint, damaged: step-00000004"):
        reader.latest()


def save_with_one_failing(comm: Comm, folder: str, on_full: str) -> str:
    checkpoints = saver(Path(folder), comm, on_full=on_full)
    little.save(checkpoints, 1, comm)

    def broken():
        yield from little.pages(2, comm)
        raise OSError(28, "No space left on device", "/full/disk")

    own = broken() if comm.rank == 1 else little.pages(2, comm)
    try:
        answer = checkpoints.save(2, common={}, own=own, state={})
    except UserError as error:
        answer = f"error: {error}"
    return f"{answer} {checkpoints.latest()}"


@pytest.mark.ranks
@pytest.mark.parametrize("on_full", ["stop", "continue"])
def test_a_rank_that_cannot_write_stops_the_commit_everywhere(tmp_path: Path, on_full: str) -> None:
    """No rank commits when one fails; all learn why, and the older checkpoint stays the latest."""
    answers = run_ranks(save_with_one_failing, 2, str(tmp_path), on_full)
    assert len(set(answers)) == 1 and answers[0].endswith("step-00000001")
    told = "rank 1: /full/disk: No space left on device" in answers[0]
    assert told if on_full == "stop" else answers[0].startswith("None ")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def save_with_rows_lost(comm: Comm, folder: str) -> str:
    checkpoints = saver(Path(folder), comm, on_full="continue")

    def lost():
        yield from little.pages(2, comm)
        raise UserError("latents.scratch: /scratch: rows of the dictionary could not be written")

    own = lost() if comm.rank == 1 else little.pages(2, comm)
    try:
        return str(checkpoints.save(2, common={}, own=own, state={}))
    except UserError as error:
        return str(error)


@pytest.mark.ranks
def test_rows_that_are_lost_end_training_on_every_rank(tmp_path: Path) -> None:
    """In one line that is no bug, also where training would go on without a checkpoint: what the
    scratch disk gives from now on are not the rows that were written."""
    answers = run_ranks(save_with_rows_lost, 2, str(tmp_path))
    assert answers == [answers[0]] * 2 and answers[0].endswith(
        "no checkpoint of step 2: rank 1: training cannot go on: latents.scratch: /scratch: rows "
        "of the dictionary could not be written"
    )


def look_elsewhere(comm: Comm, folder: str) -> str:
    """Rank 1 has lost the shared disk: its run folder is an empty one."""
    little.save(saver(Path(folder) / "here", comm), 1, comm)
    place = Path(folder) / ("elsewhere" if comm.rank else "here")
    try:
        return str(saver(place, comm).recover())
    except UserError as error:
        return str(error)


@pytest.mark.ranks
def test_a_rank_without_the_shared_disk_is_no_damage(tmp_path: Path) -> None:
    """All ranks say which one, and the checkpoint keeps its name."""
    told = run_ranks(look_elsewhere, 2, str(tmp_path))
    assert all("rank 1 does not see it; runs need a shared disk" in line for line in told)
    found = [path.name for path in (tmp_path / "here" / "checkpoints").iterdir()]
    assert found == ["step-00000001"]


def find_damaged(comm: Comm, folder: str) -> str:
    return str(saver(Path(folder), comm).recover())


@pytest.mark.ranks
def test_ranks_agree_on_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    """A newest checkpoint with one altered byte is set aside, and all ranks take the one before."""
    run_ranks(save_two, 2, str(tmp_path), False)
    checkpoints = saver(tmp_path)
    path = little.save(checkpoints, 9, Comm())
    assert path is not None
    file = path / "own-0-of-1.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert {Path(p).name for p in run_ranks(find_damaged, 2, str(tmp_path))} == {"step-00000007"}
    assert (tmp_path / "checkpoints" / "step-00000009.damaged").is_dir()


@pytest.mark.parametrize("background", ["background", "waiting"])
def test_killed_at_any_moment_of_a_save(tmp_path: Path, background: str) -> None:
    """Kill -9 before every fsync, rename and removal: there is always a whole checkpoint, at most
    one save is lost, and the next life cleans up and saves again."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.checkpoints", str(tmp_path), background],
        capture_output=True, text=True, check=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    died = int(run.stdout)
    assert died >= 12
    found = []
    for moment in range(died + 1):
        folder = tmp_path / f"{moment:03d}"
        checkpoints = saver(folder, keep=1)
        path = checkpoints.recover()
        assert path is not None
        found.append(commit.step_of(path.name))
        assert little.holds(path, found[-1] or 0)
        assert not [p for p in (folder / "checkpoints").iterdir() if p.name.startswith(".")]
        again = little.save(checkpoints, 4, Comm())
        assert again is not None and little.holds(again, 4)
    assert found == sorted(found) and set(found) == {2, 3}


@pytest.mark.parametrize("what", ["flip", "cut", "gone", "link", "manifest", "state", "pickle"])
def test_damage_is_found_and_named(tmp_path: Path, what: str) -> None:
    """Any altered, shortened, missing or foreign file of a checkpoint makes it unusable."""
    checkpoints = saver(tmp_path)
    little.save(checkpoints, 1, Comm())
    path = little.save(checkpoints, 2, Comm())
    assert path is not None
    file = path / "common-networks.safetensors"
    raw = file.read_bytes()
    if what == "flip":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif what == "cut":
        file.write_bytes(raw[:-5])
    elif what == "gone":
        file.unlink()
    elif what == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif what == "manifest":
        manifest = path / commit.MANIFEST
        manifest.write_text(manifest.read_text().replace("static.value.03", "static.value.99"))
    elif what == "state":
        (path / commit.STATE).write_text("{}")
    elif what == "pickle":
        file.write_bytes(b"\x80\x04\x95.".ljust(len(raw), b"."))
    assert damage_of(path)
    assert (checkpoints.latest() or path).name == "step-00000001"
    assert path.is_dir()
    with pytest.raises(UserError, match="step-00000002: damaged"):
        checkpoints.at(2)


def test_a_sealed_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    """Names that leave the folder are refused even where digests and seal are right."""
    path = little.save(saver(tmp_path), 1, Comm())
    assert path is not None
    shutil.copy(path / "state.json", tmp_path / "outside.json")
    manifest = commit.read_manifest(path)
    files = {**manifest.files, "../../outside.json": manifest.files["state.json"]}
    evil = commit.dump_manifest(manifest._replace(files=files))
    (path / commit.MANIFEST).write_bytes(evil)
    with pytest.raises(commit.Damage, match="not a file of this folder"):
        commit.read_manifest(path)


def test_no_whole_checkpoint_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    """A run whose only checkpoint is damaged does not silently begin again, now or later."""
    path = little.save(saver(tmp_path), 1, Comm())
    assert path is not None
    (path / "state.json").write_text("[]")
    for _ in range(2):
        with pytest.raises(UserError, match="no loadable checkpoint"):
            saver(tmp_path).recover()


def test_what_is_saved_in_the_background_is_what_was(tmp_path: Path) -> None:
    """Weights that move after a background save began are saved as they were."""
    checkpoints = saver(tmp_path)
    weight, state = torch.zeros(4), {"step": 5}
    common = {"networks": {"weight": weight}}
    assert checkpoints.save(5, common=common, own=iter(()), state=state, background=True) is None
    weight += 1
    state["step"] = 6
    path = None
    while path is None:
        path = checkpoints.poll()
    saved = checkpoints.open(path)
    assert saved.state["step"] == 5 and not saved.common("networks")["weight"].any()
    assert checkpoints.poll() is None and not checkpoints.busy


def gives_way() -> bool:
    """Whether this thread is as much nicer than its process as one that saves."""
    if sys.platform != "linux":  # elsewhere threads have no priorities of their own
        return False
    own = os.getpriority(os.PRIO_PROCESS, os.getpid())
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == min(19, own + SAVING)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_what_saves_beside_training_gives_way_to_it(tmp_path: Path) -> None:
    """A thread that writes in the background is nicer; a save that training waits for is not."""

    def pages() -> Iterator[tuple[str, torch.Tensor]]:
        told.append(gives_way())
        yield from ()

    told: list[bool] = []
    checkpoints = saver(tmp_path)
    checkpoints.save(1, common={}, own=pages(), state={}, background=True)
    checkpoints.finish()
    checkpoints.save(2, common={}, own=pages(), state={})
    checkpoints.close()
    assert told == [True, False]


def test_rows_are_set_aside_in_the_checkpoints_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that training overwrites before a slow thread saves them go to a file beside what is
    written, by a thread that gives way; the checkpoint is of the moment of the call and holds no
    more than its own files."""
    write, told = aside.Aside._write, []

    def seen(*words: Any) -> None:
        told.append(gives_way())
        write(*words)

    monkeypatch.setattr(aside, "HELD", 0)
    monkeypatch.setattr(aside.Aside, "_write", seen)
    dictionary, gate = make(Comm()), threading.Event()
    train(dictionary, Comm(), last=2)
    want = {name: tensor.clone() for name, tensor in dictionary.export()}
    checkpoints = saver(tmp_path)
    checkpoints._thread.submit(gate.wait, 60)
    own = dictionary.snapshot()
    assert checkpoints.save(2, common={}, own=own, state={}, background=True) is None
    (writing,) = (tmp_path / "checkpoints").iterdir()
    train(dictionary, Comm(), first=2, last=8)
    assert all(picture.aside.folder == writing and picture.lends for picture in own.pictures)
    gate.set()
    path = checkpoints.finish()
    assert path is not None
    saved = checkpoints.open(path)
    assert set(saved.names) == want.keys()
    assert all(torch.equal(saved.read(name), tensor) for name, tensor in want.items())
    assert len(list(path.iterdir())) == 3
    assert told and (all(told) or sys.platform != "linux")


def test_many_tensors_are_one_file(tmp_path: Path) -> None:
    """The header of what all ranks share has room for all of its names; dtypes and shapes stay."""
    many = {f"{'layer.' * 20}{i:04d}": torch.full((i % 3, 2), float(i)).t() for i in range(900)}
    many |= {"steps": torch.tensor(7), "scale": torch.tensor(0.5, dtype=torch.bfloat16)}
    path = saver(tmp_path).save(1, common={"networks": many}, own=iter(()), state={})
    assert path is not None and damage_of(path) is None
    assert [p.name for p in path.glob("common-*")] == ["common-networks.safetensors"]
    found = saver(tmp_path).open(path).common("networks")
    assert found.keys() == many.keys()
    for name, tensor in many.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_when_a_save_is_due(tmp_path: Path) -> None:
    """By steps, by the clock, by a touch file; never twice for one step; in the background twice as
    often, since training goes on while files are written."""
    for background, due in ((False, [4, 8]), (True, [2, 4, 6, 8])):
        checkpoints = saver(tmp_path, steps=4, minutes=0, background=background)
        assert [step for step in range(1, 10) if checkpoints.due(step)] == due
    assert saver(tmp_path, minutes=1e-9).due(1)
    assert CheckpointConfig(minutes=5, background=False).seconds == 300
    assert CheckpointConfig(minutes=5).seconds == 150
    checkpoints = saver(tmp_path, minutes=0)
    (tmp_path / TOUCH).touch()
    checkpoints._looked_at -= 2
    assert checkpoints.due(1)
    little.save(checkpoints, 1, Comm())
    checkpoints._looked_at -= 2
    assert not (tmp_path / TOUCH).exists() and not checkpoints.due(2)
    assert little.save(checkpoints, 1, Comm()) == tmp_path / "checkpoints" / "step-00000001"


@pytest.mark.parametrize("interval", range(1, 14))
def test_no_more_than_an_interval_is_ever_at_stake(interval: int) -> None:
    """Whenever a save is committed, at the latest when the next one begins, and whatever others
    come between: the steps since the newest committed one never exceed the interval."""
    config, dice = CheckpointConfig(steps=interval), random.Random(interval)
    for _ in range(20):
        whole, pending = 0, None
        for step in range(1, 6 * interval):
            assert step - whole <= interval
            if config.at_step(step) or dice.random() < 0.1:
                whole = whole if pending is None else pending
                whole, pending = (whole, step) if config.behind else (step, None)
            elif pending is not None and dice.random() < 0.1:
                whole, pending = pending, None


def test_what_is_kept() -> None:
    """The newest k, every n-th, the best; without a limit everything."""
    scores = {10: 1.0, 20: 9.0, 30: 2.0, 40: None, 50: 3.0}
    config = CheckpointConfig(keep=2, every=30, best=True)
    assert kept(list(scores), config, score=scores.__getitem__) == {20, 30, 40, 50}
    assert kept(list(scores), CheckpointConfig(keep=1, best=False), score=lambda _: None) == {50}
    assert kept([1, 2, 3], CheckpointConfig(keep=0), score=lambda _: None) == {1, 2, 3}


def test_old_checkpoints_go_after_the_new_one_is_there(tmp_path: Path) -> None:
    """Saving applies the retention, best score included."""
    checkpoints = saver(tmp_path, keep=1)
    for step, score in ((1, 5.0), (2, 30.0), (3, 4.0), (4, float("nan"))):
        little.save(checkpoints, step, Comm(), score=score)
    assert commit.committed(tmp_path / "checkpoints") == [2, 4]


def test_old_checkpoints_are_removed_beside_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that goes stops being one before `save` is over; its files go in the thread, also where a
    checkpoint of another life stood in the new one's place, and `recover` waits for that."""
    threads, remove = set(), os.rmdir
    strangers = set(threading.enumerate()) - {threading.current_thread()}  # of earlier tests

    def seen(*args: Any, **kwargs: Any) -> None:
        threads.update({threading.current_thread()} - strangers)
        remove(*args, **kwargs)

    monkeypatch.setattr(os, "rmdir", seen)
    folder, gate = tmp_path / "checkpoints", threading.Event()
    little.save(saver(tmp_path, keep=1), 2, Comm())
    checkpoints = saver(tmp_path, keep=1)
    checkpoints._thread.submit(gate.wait, 60)
    for step in (2, 3):
        little.save(checkpoints, step, Comm())
    names = sorted(path.name for path in folder.iterdir())
    assert [name.rsplit("-", 1)[0] for name in names[:2]] == [".dropping-step-00000002"] * 2
    assert names[2:] == ["step-00000003"] and not threads
    gate.set()
    assert checkpoints.recover() == folder / "step-00000003"
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    assert len(threads) == 1 and threading.current_thread() not in threads


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


FILL = """
import sys, torch
from data_shards.errors import UserError
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm
saver = Checkpointer(sys.argv[1], CheckpointConfig(), comm=Comm())
for step, size in ((1, 10), (2, 10**6)):
    own = iter([("static.value.00", torch.ones(size))])
    try:
        saver.save(step, common={}, own=own, state={"step": step})
    except UserError as error:
        print(error)
print(saver.latest())
"""


def fill(folder: Path, **options: object) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", FILL, str(folder)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # type: ignore  # fmt: skip
    return run.stdout.splitlines()


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    """A real failing write leaves the older checkpoint, no debris, and one line of explanation."""
    error, latest = fill(tmp_path, preexec_fn=limit_file_size)
    assert "no checkpoint of step 2: rank 0" in error and "File too large" in error
    assert "GB free" in error and latest.endswith("step-00000001")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """On a full disk the commit fails, the older checkpoint stays."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        error, latest = fill(tmp_path)
        assert "No space left on device" in error and latest.endswith("step-00000001")
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("room", [200, 1000, 1 << 16])
def test_streamed_files_are_plain_safetensors(tmp_path: Path, room: int) -> None:
    """The library reads what was streamed, in as many files as the headers need."""
    from safetensors.torch import load_file

    from trainer.streamed import StreamedSafetensors

    tensors = {
        "a": torch.arange(6, dtype=torch.int64).view(2, 3),
        'odd "name"': torch.randn(5, 2).t(),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "one of a column": torch.arange(8.0).view(4, 2)[1:2, 1],
        "flags": torch.tensor([True, False, True]),
    }
    writer = StreamedSafetensors(tmp_path, "own", room=room)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    files = writer.close()
    read = {name: tensor for file in files for name, tensor in load_file(tmp_path / file).items()}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype
        assert name in load_file(tmp_path / writer.index[name])
    assert (len(files) > 1) == (room < 400)
    assert all(commit.facts_of(tmp_path / name) == facts for name, facts in files.items())


def test_large_files_are_on_the_disk_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside training no more than a piece waits to be written, and a file that is large enough
    leaves the system's cache behind its digest; the files are the same as without."""
    tensors = {name: torch.randn(size) for name, size in (("a", 700), ("b", 100), ("c", 500))}

    def written(folder: Path, *, beside: bool) -> dict[str, commit.FileFacts]:
        folder.mkdir()
        writer = streamed.StreamedSafetensors(folder, "own", room=400, enough=3200, beside=beside)
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        return writer.close()

    told, fsync, facts = [], os.fsync, commit.facts_of

    def synced(descriptor: int) -> None:
        told.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    def read(path: Path) -> commit.FileFacts:
        told.append(f"{path.name} read")
        return facts(path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(streamed, "PIECE", 1024)
    monkeypatch.setattr(streamed, "facts_of", read)
    monkeypatch.setattr(streamed, "forget", lambda _: told.append("forgotten"))
    head = 8 + 400
    ends = [[head + 3200, "own.safetensors read"], [head + 2000, "own.1.safetensors read"]]
    whole = written(tmp_path / "whole", beside=False)
    assert told == [*ends[0], *ends[1]]
    told.clear()
    assert written(tmp_path / "pieces", beside=True) == whole
    assert told == [
        head + 1024, head + 2048, head + 3072, *ends[0], "forgotten",
        head + 1024, *ends[1], "forgotten",
    ]  # fmt: skip


def test_a_full_page_is_handed_on_in_memory_that_is_used_again(tmp_path: Path) -> None:
    """Pages that are lent lie in the same memory, one after the other, and are saved
    as they were; who keeps pages gets each in its own."""
    dictionary = make(Comm())
    train(dictionary, Comm(), last=2)
    want = dict(dictionary.export())
    full = [name for name in want if name.startswith("transient.value") and len(want[name])]
    assert len({want[name].data_ptr() for name in full}) == len(full) > 1
    pages, places = dictionary.snapshot(), set()
    pages.lend()
    for name, tensor in pages:
        assert torch.equal(tensor, want[name])
        places |= {tensor.data_ptr()} if name in full else set()
    assert len(places) == 1
    saved = saver(tmp_path).save(1, common={}, own=dictionary.snapshot(), state={})
    assert saved is not None
    held = saver(tmp_path).open(saved)
    assert all(torch.equal(held.read(name), tensor) for name, tensor in want.items())


def test_a_bug_while_saving_is_no_user_error(tmp_path: Path) -> None:
    """What is not the disk's fault is raised as a bug, and nothing is committed."""
    checkpoints = saver(tmp_path, on_full="continue")
    twice = iter([("a", torch.ones(1)), ("a", torch.ones(1))])
    with pytest.raises(RuntimeError, match="tensor a is written twice"):
        checkpoints.save(1, common={}, own=twice, state={})
    with pytest.raises(RuntimeError, match="not JSON serializable"):
        checkpoints.save(1, common={}, own=iter(()), state={"x": torch.ones(1)})
    odd = {"networks": {"weight": torch.zeros(1, dtype=torch.complex64)}}
    with pytest.raises(RuntimeError, match="complex64, which is not stored"):
        checkpoints.save(1, common=odd, own=iter(()), state={})
    assert checkpoints.latest() is None


def test_settings_out_of_range_are_refused() -> None:
    """Settings are checked when they are made."""
    with pytest.raises(UserError, match=r"checkpoint\.keep"):
        CheckpointConfig(keep=-1)
    with pytest.raises(UserError, match=r"checkpoint\.on_full"):
        CheckpointConfig(on_full="ignore")


def test_json_on_disk_is_replaced_whole(tmp_path: Path) -> None:
    """A merge keeps the other fields and leaves no temporary file."""
    path = tmp_path / "run.json"
    commit.update_json(path, status="running", starts=1)
    commit.update_json(path, starts=2)
    assert json.loads(path.read_text()) == {"status": "running", "starts": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_file_that_is_replaced_is_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the file nor the name under which its new contents are written leads elsewhere."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    monkeypatch.setattr(commit.threading, "get_ident", lambda: 7)
    (tmp_path / f".run.json.{os.getpid()}-7.tmp").symlink_to(precious)
    (tmp_path / "run.json").symlink_to(precious)
    commit.replace_durable(tmp_path / "run.json", b"{}")
    assert precious.read_text() == "mine" and (tmp_path / "run.json").read_bytes() == b"{}"


def test_a_run_folder_that_is_gone_is_told_in_one_line(tmp_path: Path) -> None:
    """Removed while it trains, a folder gives the disk's reason and no error about the error."""
    error = FileNotFoundError(2, "No such file or directory", str(tmp_path / "gone" / "a"))
    told = explain(error, tmp_path / "gone" / "deeper" / "checkpoints")
    assert told.startswith(f"{tmp_path}/gone/a: No such file or directory (")


def test_a_file_that_asks_meanwhile_is_answered_by_the_next_save(tmp_path: Path) -> None:
    """`SAVE` is touched while a save is being written: that one's commit does not take it away."""
    checkpoints, gate = saver(tmp_path, minutes=0), threading.Event()
    checkpoints._thread.submit(gate.wait, 60)
    little.save(checkpoints, 5, Comm(), background=True)
    (tmp_path / TOUCH).touch()
    gate.set()
    assert checkpoints.finish() is not None and (tmp_path / TOUCH).exists()
    checkpoints._looked_at -= 2
    assert checkpoints.due(6)
    little.save(checkpoints, 6, Comm())
    assert not (tmp_path / TOUCH).exists()
    checkpoints.close()


def refusing(
    monkeypatch: pytest.MonkeyPatch, *, code: int, times: int, name: str = "state.json"
) -> None:
    """Have the disk refuse to read files of a name so many times."""
    facts, left = commit.facts_of, [times]

    def read(path: Path) -> commit.FileFacts:
        if path.name == name and left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code), str(path))
        return facts(path)

    monkeypatch.setattr(commit, "facts_of", read)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_disk_that_stumbles_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Asked again, it gives the newest one; nothing is set aside."""
    checkpoints = saver(tmp_path)
    for step in (1, 2):
        little.save(checkpoints, step, Comm())
    refusing(monkeypatch, code=code, times=2)
    found = checkpoints.recover()
    assert found is not None and found.name == "step-00000002"
    assert not list((tmp_path / "checkpoints").glob(f"*{commit.DAMAGED}*"))


def test_a_disk_out_of_reach_is_told_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints that cannot be read for a while are not damaged ones: the run does not begin, and
    finds the newest when the disk is back. A file that the disk itself has lost is damage."""
    monkeypatch.setattr(saved, "PATIENCE", 0.1)
    checkpoints = saver(tmp_path)
    for step in (1, 2):
        little.save(checkpoints, step, Comm())
    with monkeypatch.context() as patch:
        refusing(patch, code=errno.ESHUTDOWN, times=10**6)
        with pytest.raises(UserError, match=r"step-00000002: rank 0 cannot read it \(.*; check"):
            checkpoints.recover()
    assert commit.committed(tmp_path / "checkpoints") == [1, 2]
    assert checkpoints.recover() == tmp_path / "checkpoints" / "step-00000002"
    with monkeypatch.context() as patch:
        refusing(patch, code=errno.EIO, times=10**6)
        with pytest.raises(UserError, match="no loadable checkpoint, damaged: step-00000002, step"):
            checkpoints.recover()


def test_a_leftover_that_cannot_be_removed_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of another machine has files of a dropped checkpoint open: the run begins, and the
    next life removes it."""
    checkpoints = saver(tmp_path)
    little.save(checkpoints, 1, Comm())
    left = tmp_path / "checkpoints" / f"{commit.DROPPING}step-00000000-ab"
    left.mkdir()

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        assert checkpoints.recover() is not None and left.is_dir()
    assert checkpoints.recover() is not None and not left.exists()


def test_going_back_forgets_what_was_dropped(tmp_path: Path) -> None:
    """A rank that did not drop step 6 itself saves it again, as rank 0 does, when the run has gone
    back past it."""
    checkpoints = saver(tmp_path, keep=1, every=4, best=False)
    for step in (4, 6, 8):
        little.save(checkpoints, step, Comm())
    checkpoints._known = {4, 6, 8}  # of a rank that is not the first
    assert commit.committed(tmp_path / "checkpoints") == [4, 8]
    (tmp_path / "checkpoints" / "step-00000008" / "state.json").unlink()
    found = checkpoints.recover()
    assert found is not None and found.name == "step-00000004" and checkpoints._known == {4}


def test_a_disk_that_does_not_tell_asks_for_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at `SAVE` that fails costs nothing."""
    checkpoints = saver(tmp_path, minutes=0)

    def failing(path: Path) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "exists", failing)
    checkpoints._looked_at -= 2
    assert not checkpoints.due(1)
