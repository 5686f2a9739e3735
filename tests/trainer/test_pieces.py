"""How ranks divide parameters."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.pieces import ALIGNED, deal, layout

SHAPES = st.lists(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(torch.Size), min_size=1, max_size=8
)


@settings(deadline=None)
@given(SHAPES, st.integers(1, 9))
def test_every_row_is_moved_by_exactly_one_rank(shapes: list[torch.Size], world: int) -> None:
    """Pieces are disjoint and cover all, and no rank has more than its share and two rows."""
    dealt = deal(dict(enumerate(shapes)), world)
    counts = [torch.zeros(shape) for shape in shapes]
    for pieces in dealt:
        for piece in pieces:
            piece.of(counts).add_(1)
    assert all(bool((count == 1).all()) for count in counts)
    total = sum(shape.numel() for shape in shapes)
    row = max(shape.numel() // shape[0] for shape in shapes)
    for pieces in dealt:
        assert sum(piece.of(counts).numel() for piece in pieces) <= total / world + 2 * row


@settings(deadline=None)
@given(SHAPES)
def test_tensors_lie_one_behind_the_other(shapes: list[torch.Size]) -> None:
    """Each starts a cache line behind the end of the one before it, within the slab."""
    tensors = [torch.empty(shape) for shape in shapes]
    starts, size = layout(tensors)
    ends = [start + tensor.numel() for start, tensor in zip(starts, tensors, strict=True)]
    assert all(start % ALIGNED == 0 for start in starts) and ends[-1] <= size
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))
