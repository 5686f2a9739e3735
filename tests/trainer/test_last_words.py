"""Ranks that find another one gone learn why it went."""

from __future__ import annotations

from pathlib import Path

from data_shards.errors import UserError
from trainer.last_words import LastWords
from trainer.leaving import LOST_RANK, USER_ERROR


def begun(folder: Path, rank: int, world: int) -> LastWords:
    words = LastWords(folder, rank=rank, world=world)
    words.begin()
    return words


def test_what_a_user_has_to_mend_ends_all_and_what_failed_is_told(tmp_path: Path) -> None:
    """A mistake is one on every rank; of a fault the others tell, and have lost a rank; who has
    lost a rank itself leaves nothing, and nobody reads its own words."""
    first, second, third = (begun(tmp_path, rank, 3) for rank in range(3))
    assert first.of_others() is None
    third.write(RuntimeError("Connection closed by peer"))
    assert first.of_others() is None and not list(tmp_path.iterdir())
    third.write(RuntimeError("CUDA error: uncorrectable ECC error"))
    told = "rank 2: RuntimeError: CUDA error: uncorrectable ECC error"
    assert first.of_others() == second.of_others() == (LOST_RANK, told)
    assert third.of_others() is None
    second.write(UserError("latents.scratch: /scratch is full"))
    assert first.of_others() == (USER_ERROR, "rank 1: latents.scratch: /scratch is full")
    first.write(UserError("latents.scratch: /mine is full"))  # as run.json says it
    assert second.of_others() == (USER_ERROR, "latents.scratch: /mine is full")


def test_who_trains_alone_leaves_no_words(tmp_path: Path) -> None:
    """There is nobody to read them."""
    begun(tmp_path, 0, 1).write(UserError("full"))
    assert not list(tmp_path.iterdir())


def test_words_of_an_earlier_life_say_nothing_of_this_one(tmp_path: Path) -> None:
    """Each rank forgets its own before it may read, and rank 0 those of ranks there are no more;
    what others wrote in this life stays."""
    for rank in range(4):
        begun(tmp_path, rank, 4).write(UserError("old"))
    early = LastWords(tmp_path, rank=0, world=2)
    assert early.of_others() is None
    second = begun(tmp_path, 1, 2)
    second.write(UserError("new"))
    early.begin()
    assert [path.name for path in tmp_path.iterdir()] == ["ended-rank-1.json"]
    assert early.of_others() == (USER_ERROR, "rank 1: new")


def test_words_that_cannot_be_written_or_read_cost_nothing(tmp_path: Path) -> None:
    """The first error is the one that counts."""
    words = begun(tmp_path, 1, 2)
    (tmp_path / "ended-rank-1.json").mkdir()
    words.write(UserError("full"))
    reader = begun(tmp_path, 0, 2)
    assert reader.of_others() is None
    (tmp_path / "ended-rank-1.json").rmdir()
    (tmp_path / "ended-rank-1.json").write_text("[")
    assert reader.of_others() is None
