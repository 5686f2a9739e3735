"""The read plan: pure, complete, endless, and shuffled well enough."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from data_shards.plan import ORDER, Plan, rank_slots

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORLDS = (1, 2, 3, 4, 6, 8)

counts = st.lists(st.integers(0, 23), min_size=1, max_size=13).filter(any)
batches = st.integers(1, 17)
groups = st.integers(1, 5)
blocks = st.integers(1, 40)
seeds = st.integers(0, 2**64 - 1)


def epoch_of(plan: Plan, epoch: int) -> np.ndarray:
    return plan.span(epoch * plan.clips, plan.clips).clip_B


@patient
@given(counts, seeds, groups, blocks)
def test_every_clip_comes_exactly_once_an_epoch(counts, seed, group, block):
    """Each of three epochs is a permutation of all clips."""
    plan = Plan(counts, seed=seed, batch=3, group=group, block=block)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(epoch_of(plan, epoch)), np.arange(plan.clips))


@patient
@given(counts, seeds, batches, groups, blocks)
def test_global_batches_are_the_same_for_every_world(counts, seed, batch, group, block):
    """The parts that ranks take of plans of their own, put together, are the global batch, and no
    part is more than one clip larger than another; whatever divides by whatever."""
    whole, *own = (
        Plan(counts, seed=seed, batch=batch, group=group, block=block)
        for _ in range(1 + max(WORLDS))
    )
    steps = 2 * (whole.clips // batch + 1)
    for step in range(0, steps, 1 + steps // 8):
        expected = whole.batch(step)
        assert len(expected.clip_B) == len(expected.epoch_B) == batch
        for world in WORLDS:
            slots = [rank_slots(batch, rank=rank, world=world) for rank in range(world)]
            assert max(map(len, slots)) - min(map(len, slots)) <= 1
            batches = [plan.batch(step) for plan in own[:world]]
            for column in range(2):
                parts = [b[column][s.start : s.stop] for b, s in zip(batches, slots, strict=True)]
                np.testing.assert_array_equal(np.concatenate(parts), expected[column])


@patient
@given(counts, seeds, batches, groups, st.randoms())
def test_any_step_can_be_asked_for_at_random(counts, seed, batch, group, random):
    """A step's batch does not depend on the steps asked for before it."""
    plan = Plan(counts, seed=seed, batch=batch, group=group, block=7)
    steps = list(range(2 * plan.clips // batch + 2))
    in_order = [plan.batch(step) for step in steps]
    for step in random.sample(steps, len(steps)):
        again = Plan(counts, seed=seed, batch=batch, group=group, block=7).batch(step)
        for one, other in zip((*again, *plan.batch(step)), in_order[step] * 2, strict=True):
            np.testing.assert_array_equal(one, other)


@patient
@given(counts, seeds, batches)
def test_resuming_at_every_step_twice_in_a_row_loses_and_repeats_nothing(counts, seed, batch):
    """Stop at a step, resume, stop one step later, resume at another world size: same sequence."""

    def read(start: int, stop: int, world: int) -> list[int]:
        plan = Plan(counts, seed=seed, batch=batch, group=3, block=8)
        clips = []
        for step in range(start, stop):
            whole = plan.batch(step).clip_B
            for rank in range(world):
                slots = rank_slots(batch, rank=rank, world=world)
                clips += whole[slots.start : slots.stop].tolist()
        return clips

    steps = -(-sum(counts) // batch) + 2
    expected = read(0, steps, 1)
    for stop in range(steps):
        parts = ((0, stop, 2), (stop, stop + 1, 3), (stop + 1, steps, 4))
        assert [clip for part in parts for clip in read(*part)] == expected


@patient
@given(counts, seeds, batches, st.integers(1, 5))
def test_ahead_names_the_coming_clips_and_shards(counts, seed, batch, n):
    """What is fetched ahead is what the coming batches read."""
    plan = Plan(counts, seed=seed, batch=batch, group=2, block=5)
    coming = np.concatenate([plan.batch(step).clip_B for step in range(4, 4 + n)])
    np.testing.assert_array_equal(plan.ahead(4, n), coming)
    shard_of = np.repeat(np.arange(len(counts)), counts)
    assert shard_of[plan.batch(4).clip_B[0]] in plan.shards_ahead(4, groups=1)


@patient
@given(counts, seeds, batches, groups, blocks, st.integers(0, 300))
@example(counts=[3, 4], seed=0, batch=1, group=2, block=4, step=6)
def test_shards_ahead_are_those_with_clips_to_come(counts, seed, batch, group, block, step):
    """From any step on: the shards of the clips that are left of its group and, for each group more
    that is asked for, all of that group's, none twice."""
    plan = Plan(counts, seed=seed, batch=batch, group=group, block=block)
    shard_of = np.repeat(np.arange(len(counts)), counts)
    position, named = step * batch, []
    left: set[int] = set()
    for number in range(1, 4):
        epoch, inside = divmod(position, plan.clips)
        starts = plan._epoch(epoch).group_starts
        end = epoch * plan.clips + int(starts[starts > inside][0])
        left |= {int(shard_of[clip]) for clip in plan.span(position, end - position).clip_B}
        before, named, position = named, plan.shards_ahead(step, groups=number), end
        assert named[: len(before)] == before and sorted(named) == sorted(left)


@patient
@given(counts, seeds, groups, blocks)
def test_every_shard_is_read_once_around_to_within_a_block(counts, seed, group, block):
    """From some clip of a shard on, and from its front after its end: before a clip, none comes
    that lies a block or more behind it."""
    plan = Plan(counts, seed=seed, batch=1, group=group, block=block)
    order = epoch_of(plan, 0)
    for first, count in zip(plan.first, plan.counts, strict=False):
        read = order[(order >= first) & (order < first + count)] - first
        turned = ((read - start) % count for start in range(count))
        lags = [(np.maximum.accumulate(clips) - clips).max() for clips in turned]
        assert not lags or min(lags) < block


@patient
@given(seeds, st.integers(0, 2**31), st.integers(1, 9))
def test_windows_fit_and_depend_on_seed_epoch_and_clip_alone(seed, epoch, frames):
    """Every window lies inside its clip and is drawn alike in any company."""
    plan = Plan([40], seed=seed, batch=5)
    clip_B = np.arange(40)
    batch = plan.batch(0)._replace(clip_B=clip_B, epoch_B=np.full(40, epoch))
    stored_B = frames + clip_B % 7
    start_B = plan.windows(batch, stored_B=stored_B, frames=frames)
    assert ((start_B >= 0) & (start_B + frames <= stored_B)).all()
    for clip in (0, 13, 39):
        alone = batch._replace(clip_B=clip_B[clip : clip + 1], epoch_B=batch.epoch_B[:1])
        one = plan.windows(alone, stored_B=stored_B[clip : clip + 1], frames=frames)
        assert one[0] == start_B[clip]


def test_windows_are_uniform_and_change_from_epoch_to_epoch():
    """Each of 16 starts comes within five standard deviations of its share."""
    plan = Plan([64000], seed=3, batch=1)
    first = plan.span(0, 64000)
    stored_B = np.full(64000, 31)
    start_B = plan.windows(first, stored_B=stored_B, frames=16)
    counts = np.bincount(start_B, minlength=16)
    assert len(counts) == 16 and abs(counts - 4000).max() < 5 * np.sqrt(4000)
    second = plan.windows(first._replace(epoch_B=first.epoch_B + 1), stored_B=stored_B, frames=16)
    assert 0.03 < (second == start_B).mean() < 0.1


def test_the_shuffle_comes_close_to_a_true_permutation():
    """At 64 shards of 500 clips: mean displacement from storage, and how many shards a batch of 32
    meets."""
    plan = Plan([500] * 64, seed=1, batch=32)
    displacements, met = [], []
    for epoch in range(8):
        order = epoch_of(plan, epoch)
        displacements.append(abs(order - np.arange(plan.clips)).mean() / (plan.clips / 3))
        met.append(np.mean([len(set(b // 500)) for b in order.reshape(-1, 32)]))
    assert 0.9 < np.mean(displacements) < 1.1
    assert np.mean(met) > 13.5


@pytest.mark.parametrize(
    ("counts", "pairs"),
    [([2048] * 16, 40), ([16384], 240), ([500] * 64, 40), ([6000, 2, 3000], 240)],
)
def test_a_clip_s_place_changes_from_epoch_to_epoch_as_in_a_true_permutation(counts, pairs):
    """Mean displacement between one epoch and the next, also of sets of one group of shards and of
    more clips than a block, over that of as many true permutations: 1, to within five standard
    errors (of 0.03 at most: a shard turned by a fraction x moves its clips by 2 x (1 - x))."""
    plan = Plan(counts, seed=1, batch=32)
    random = np.random.default_rng(0)
    true = [random.permutation(plan.clips) for _ in range(pairs + 1)]
    ours = [np.argsort(epoch_of(plan, epoch)) for epoch in range(pairs + 1)]
    found, wanted = (
        np.mean([abs(one - other).mean() for one, other in itertools.pairwise(places)])
        for places in (ours, true)
    )
    assert 0.85 < found / wanted < 1.15


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """A block of Philox4x64-10 (Salmon et al. 2011), from the paper, with whole numbers."""
    mask = 2**64 - 1
    for _ in range(10):
        left, right = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = (
            (right >> 64) ^ counter[1] ^ key[0],
            right & mask,
            (left >> 64) ^ counter[3] ^ key[1],
            left & mask,
        )
        key = ((key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask)
    return counter


def words_of(seed: int, epoch: int, group: int, use: int, n: int) -> list[int]:
    """The first `n` words for one use of randomness."""
    blocks = (philox((1 + block, epoch, group, use), (seed, 0)) for block in range(-(-n // 4)))
    return [word for block in blocks for word in block][:n]


def slow_epoch(counts: list[int], *, seed: int, epoch: int, group: int, block: int) -> list[int]:
    """An epoch, clip by clip, as the module's page tells it."""
    clips = iter(range(sum(counts)))
    stored = {shard: [next(clips) for _ in range(n)] for shard, n in enumerate(counts) if n}
    words = words_of(seed, epoch, 0, 1, len(stored))
    shards = [shard for _, shard in sorted(zip(words, stored, strict=True))]
    order = []
    for number, start in enumerate(range(0, len(shards), group)):
        members, queues = shards[start : start + group], {}
        for shard, word in zip(
            members, words_of(seed, epoch, number, 4, len(members)), strict=True
        ):
            turn = (word >> 32) * counts[shard] >> 32
            queues[shard] = stored[shard][turn:] + stored[shard][:turn]
        places = [shard for shard in members for _ in range(counts[shard])]
        words = words_of(seed, epoch, number, 2, len(places))
        merged = [
            queues[places[i]].pop(0) for i in sorted(range(len(places)), key=words.__getitem__)
        ]
        words = words_of(seed, epoch, number, 3, len(places))
        for first in range(0, len(merged), block):
            inside = range(first, min(first + block, len(merged)))
            order += [merged[i] for i in sorted(inside, key=words.__getitem__)]
    return order


def test_the_random_words_are_philox():
    """The slow generator gives the known answers of its authors' library (Random123), and numpy the
    words of the slow one."""
    zeros, ones = (0,) * 6, (2**64 - 1,) * 6
    assert [f"{word:016x}" for word in philox(zeros[:4], zeros[:2])] == KNOWN[0].split()
    assert [f"{word:016x}" for word in philox(ones[:4], ones[:2])] == KNOWN[1].split()
    key, counter = np.array([3, 0], dtype=np.uint64), np.array([0, 2, 5, 1], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(9)
    assert words_of(3, 2, 5, 1, 9) == words.tolist()


KNOWN = (
    "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
    "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
)


@pytest.mark.parametrize(
    ("counts", "seed", "group", "block"),
    [
        ([5, 0, 3, 7], 2020, 2, 4),
        ([1], 0, 16, 4096),
        ([9, 8, 7, 6, 5], 2**64 - 1, 3, 5),
        ([40], 7, 1, 6),
        ([3, 30, 0, 0, 12], 1, 16, 4096),
    ],
)
def test_the_sequence_never_changes(counts, seed, group, block):
    """Epochs of known plans, written down once more step by step, so that a new version of this
    project or of numpy cannot reorder a saved run unnoticed (see `plan.ORDER`)."""
    assert ORDER == 2
    plan = Plan(counts, seed=seed, batch=6, group=group, block=block)
    for epoch in (0, 1, 400, 2**40):
        slow = slow_epoch(counts, seed=seed, epoch=epoch, group=group, block=block)
        assert epoch_of(plan, epoch).tolist() == slow


@pytest.mark.parametrize(
    ("counts", "settings"),
    [([], {}), ([0], {}), ([3], {"batch": 0}), ([3], {"group": 0}), ([3], {"seed": -1})],
)
def test_impossible_plans_are_refused(counts, settings):
    """No clips or a number out of range is a user's error."""
    with pytest.raises(UserError):
        Plan(counts, **{"seed": 0, "batch": 1, **settings})
