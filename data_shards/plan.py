"""The clip plan: which clip is read when, as arithmetic over (clips per shard, seed, epoch, step).

An epoch permutes the shards and takes them in groups. Inside a group every shard is turned: it
begins with a clip that is drawn, and goes on with its first one after its last. The clips of the
turned shards are merged at random, which keeps each one's order, and blocks of the merged sequence
are shuffled. So each shard is read front to back (to within one block), once around; an epoch holds
every clip once, and a clip's place in one epoch tells nothing of its place in the next. Epochs
follow one another without end and a batch may span two of them: every global batch has exactly
`batch` clips, whatever their number. Neither the number of ranks nor of loader workers comes in:
rank r of W takes the slots [r B // W, (r + 1) B // W) of each global batch, so the state of a run
is its step.

Randomness is Philox, keyed by the seed and counted by (epoch, group, use); only its raw words are
used, which no library version changes. Any step can be asked for at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_shards.errors import UserError

ORDER = 2
"""Version of the sequence. It is raised where the same numbers begin to give other clips, so that
no run goes on in an order that is not the one it began in. 1: shards were not turned."""
_SHARDS, _MERGE, _BLOCKS, _TURNS = 1, 2, 3, 4
"""Uses of randomness; the last word of the counter."""
_KEPT = 8
"""Orders of groups, and of epochs, that a plan remembers."""


class PlanBatch(NamedTuple):
    """One global batch: clip numbers and the epoch of each, both int64 (B,)."""

    clip_B: np.ndarray
    epoch_B: np.ndarray


class _Epoch(NamedTuple):
    shard_order: np.ndarray
    """Shards with clips, permuted."""
    group_starts: np.ndarray
    """Position in the epoch of each group's first clip, and the number of clips at the end."""


class _Group(NamedTuple):
    order: np.ndarray
    """Clips in reading order."""
    last: np.ndarray
    """Position in `order` of the last clip of each of the group's shards."""


class Plan:
    """The endless sequence of global batches of one data set.

    Args:
        clips_per_shard: clips in each shard; clips are numbered shard by shard.
        seed: 0 <= seed < 2**64.
        batch: clips of a global batch, B.
        group: shards merged at a time; more mix better and keep more shards open.
        block: clips shuffled at a time, after the merge.

    Raises:
        UserError: no clips, or a number out of range.
    """

    def __init__(
        self,
        clips_per_shard: Sequence[int] | np.ndarray,
        *,
        seed: int,
        batch: int,
        group: int = 16,
        block: int = 4096,
    ) -> None:
        self.counts = np.asarray(clips_per_shard, dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.clips = int(self.first[-1])
        self.seed, self.batch_size, self.group, self.block = seed, batch, group, block
        if self.clips < 1 or self.counts.min() < 0:
            raise UserError("data.manifest: no clips to read; prepare the footage again")
        for name, value in (("batch", batch), ("shuffle_shards", group), ("shuffle_block", block)):
            if value < 1:
                raise UserError(f"data.{name}: {value} must be at least 1")
        if not 0 <= seed < 2**64:
            raise UserError(f"seed: {seed} must lie in 0..2**64-1")
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()

    def batch(self, step: int) -> PlanBatch:
        """Global batch number `step` (from 0)."""
        return self.span(step * self.batch_size, self.batch_size)

    def ahead(self, step: int, n: int) -> np.ndarray:
        """Clip numbers, int64 (n B,), of the `n` global batches from `step` on."""
        return self.span(step * self.batch_size, n * self.batch_size).clip_B

    def span(self, position: int, n: int) -> PlanBatch:
        """The `n` clips from `position` of the endless sequence on."""
        clips, epochs = [], []
        while n > 0:
            epoch, inside = divmod(position, self.clips)
            group, within, _ = self._group_at(epoch, inside)
            part = group.order[within : within + n]
            clips.append(part)
            epochs.append(np.full(len(part), epoch, dtype=np.int64))
            position, n = position + len(part), n - len(part)
        none = np.empty(0, dtype=np.int64)
        return PlanBatch(np.concatenate([*clips, none]), np.concatenate([*epochs, none]))

    def shards_ahead(self, step: int, groups: int = 2) -> list[int]:
        """Shards of the group that `step` begins in that have clips from there on, and of the
        groups after it, in reading order."""
        epoch, inside = divmod(step * self.batch_size, self.clips)
        group, within, number = self._group_at(epoch, inside)
        left = self._group_shards(epoch, number)[group.last >= within]
        shards = left.tolist()
        for _ in range(groups - 1):
            number += 1
            if number >= len(self._epoch(epoch).group_starts) - 1:
                epoch, number = epoch + 1, 0
            shards += self._group_shards(epoch, number).tolist()
        return list(dict.fromkeys(shards))

    def windows(self, batch: PlanBatch, *, stored_B: np.ndarray, frames: int) -> np.ndarray:
        """First frame, int64 (B,), of each clip's window of `frames` among its `stored_B` frames.

        Uniform over the windows that fit, drawn per (seed, epoch, clip) alone.
        """
        with np.errstate(over="ignore"):
            word_B = _mix(_mix(_mix(np.uint64(self.seed)) + batch.epoch_B.astype(np.uint64)))
            word_B = _mix(word_B + batch.clip_B.astype(np.uint64))
        return _scaled(word_B, np.asarray(stored_B, dtype=np.int64) - frames + 1)

    def _raw(self, n: int, *, epoch: int, group: int, use: int) -> np.ndarray:
        """`n` raw 64-bit words for one use."""
        key = np.array([self.seed, 0], dtype=np.uint64)
        counter = np.array([0, epoch, group, use], dtype=np.uint64)
        return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(n))

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            present = np.flatnonzero(self.counts)
            words = self._raw(len(present), epoch=epoch, group=0, use=_SHARDS)
            order = present[np.argsort(words, kind="stable")]
            sizes = np.add.reduceat(self.counts[order], np.arange(0, len(order), self.group))
            _remember(self._epochs, epoch, _Epoch(order, np.concatenate([[0], np.cumsum(sizes)])))
        return self._epochs[epoch]

    def _group_shards(self, epoch: int, number: int) -> np.ndarray:
        return self._epoch(epoch).shard_order[number * self.group : (number + 1) * self.group]

    def _group_at(self, epoch: int, inside: int) -> tuple[_Group, int, int]:
        """The group at a position of an epoch, the position in it, and its number."""
        starts = self._epoch(epoch).group_starts
        number = int(np.searchsorted(starts, inside, side="right")) - 1
        key = (epoch, number)
        if key not in self._groups:
            _remember(self._groups, key, self._make_group(epoch, number))
        self._groups.move_to_end(key)
        return self._groups[key], inside - int(starts[number]), number

    def _make_group(self, epoch: int, number: int) -> _Group:
        """One group, shuffled."""
        shards = self._group_shards(epoch, number)
        counts = self.counts[shards]
        labels = np.repeat(np.arange(len(shards)), counts)
        total = len(labels)
        labels = labels[
            np.argsort(self._raw(total, epoch=epoch, group=number, use=_MERGE), kind="stable")
        ]
        merged = np.empty(total, dtype=np.int64)
        turns = _scaled(self._raw(len(shards), epoch=epoch, group=number, use=_TURNS), counts)
        rank_in_shard = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        turned = (rank_in_shard + np.repeat(turns, counts)) % np.repeat(counts, counts)
        merged[np.argsort(labels, kind="stable")] = np.repeat(self.first[shards], counts) + turned
        words = self._raw(total, epoch=epoch, group=number, use=_BLOCKS)
        order = np.lexsort((words, np.arange(total) // self.block))
        last = np.zeros(len(shards), dtype=np.int64)
        np.maximum.at(last, labels[order], np.arange(total))
        return _Group(merged[order], last)


def rank_slots(batch: int, *, rank: int, world: int) -> range:
    """Slots of a global batch of `batch` clips that `rank` of `world` takes; may be empty."""
    return range(rank * batch // world, (rank + 1) * batch // world)


def _scaled(words: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Numbers in 0..counts-1, int64, from 64-bit words, elementwise; counts below 2**32."""
    high = words >> np.uint64(32)
    return ((high * counts.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def _mix(word: np.ndarray | np.uint64) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014), elementwise on uint64."""
    word = np.asarray(word, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _remember(kept: OrderedDict, key: object, value: object) -> None:
    kept[key] = value
    if len(kept) > _KEPT:
        kept.popitem(last=False)
