"""The read plan: pure, complete, endless, and shuffled well enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_shards.errors import UserError
from data_shards.plan import Plan, rank_slots

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
    """The ranks' parts, put together, are the global batch, whatever divides by whatever."""
    whole = Plan(counts, seed=seed, batch=batch, group=group, block=block)
    for step in range(2 * (whole.clips // batch + 1)):
        expected = whole.batch(step)
        assert len(expected.clip_B) == batch
        for world in WORLDS:
            slots = [rank_slots(batch, rank=rank, world=world) for rank in range(world)]
            assert [slot for part in slots for slot in part] == list(range(batch))


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
def test_every_shard_is_read_front_to_back_to_within_a_block(counts, seed, group, block):
    """Before a clip of a shard, no clip comes that lies a block or more behind it."""
    plan = Plan(counts, seed=seed, batch=1, group=group, block=block)
    order = epoch_of(plan, 0)
    for first, count in zip(plan.first, plan.counts, strict=False):
        read = order[(order >= first) & (order < first + count)]
        assert (np.maximum.accumulate(read) - read < block).all() if len(read) else True


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
    """At 64 shards of 500 clips: mean displacement, and how many shards a batch of 32 meets."""
    plan = Plan([500] * 64, seed=1, batch=32)
    displacements, met = [], []
    for epoch in range(8):
        order = epoch_of(plan, epoch)
        displacements.append(abs(order - np.arange(plan.clips)).mean() / (plan.clips / 3))
        met.append(np.mean([len(set(b // 500)) for b in order.reshape(-1, 32)]))
    assert 0.9 < np.mean(displacements) < 1.1
    assert np.mean(met) > 13.5
    before, after = np.argsort(epoch_of(plan, 0)), np.argsort(epoch_of(plan, 1))
    assert 0.9 < abs(before - after).mean() / (plan.clips / 3) < 1.1


def test_the_sequence_never_changes():
    """A batch of a known plan, so that a new version cannot reorder a saved run unnoticed."""
    plan = Plan([5, 0, 3, 7], seed=2020, batch=6, group=2, block=4)
    known = [plan.batch(step).clip_B.tolist() for step in (0, 1, 2, 1000)]
    assert known == KNOWN


KNOWN = [[1, 6, 0, 5, 3, 7], [2, 4, 9, 11, 10, 8], [14, 13, 12, 0, 3, 1], [5, 6, 0, 1, 4, 7]]


@pytest.mark.parametrize(
    ("counts", "settings"),
    [([], {}), ([0], {}), ([3], {"batch": 0}), ([3], {"group": 0}), ([3], {"seed": -1})],
)
def test_impossible_plans_are_refused(counts, settings):
    """No clips or a number out of range is a user's error."""
    with pytest.raises(UserError):
        Plan(counts, **{"seed": 0, "batch": 1, **settings})
