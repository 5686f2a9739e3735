"""Figures of `benchmarks.tuning` and how its page spells them. One that is not there is a dash, and
what it belongs to counts in no mean and in no comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DIGITS = {
    "exchange": 2, "exchange-fcs": 4, "nearest": 2, "unseen-mcs": 2, "unseen-fcs": 4, "unseen": 2,
}  # fmt: skip
"""What is judged of a run, and with how many digits it is shown."""
UNITS = {
    "exchange": "PSNR of recombined cells, dB",
    "exchange-fcs": "FCS of recombined cells, distance to its bound",
    "nearest": "PSNR of the nearest training video, dB",
    "unseen-mcs": "MCS of fitted cells", "unseen-fcs": "FCS of fitted cells, distance to its bound",
    "unseen": "PSNR of fitted cells, dB",
}  # fmt: skip
FITTED = (
    "Of fitted cells latents were found on these very frames, with the networks frozen "
    "(`trainer.fit`): no measure of what is generated unseen."
)
HIGHER = ("unseen", "exchange")
"""Objectives of which more is better."""
GUARDS = {
    "exchange": ("exchange-fcs", "nearest"), "unseen": ("unseen-mcs", "unseen-fcs", "exchange"),
    "unseen-mcs": ("unseen-fcs",), "unseen-fcs": ("unseen",),
}  # fmt: skip
"""What stands beside an objective: PSNR of one frame after another says nothing of motion and of
consistency, who fits cells well may have given up exchange for it, and a cell that is no better
than the nearest training video is no exchange."""
NOTHING = "-"

Figure = float | None


class Pairs(NamedTuple):
    """Two configurations' figures over seeds, both there."""

    ours: list[float]
    theirs: list[float]
    asked: int
    """Seeds in all."""

    def gains(self) -> list[float]:
        """What the first has more than the second, by seed."""
        return [a - b for a, b in zip(self.ours, self.theirs, strict=True)]


def pairs_of(both: Sequence[tuple[Figure, Figure]]) -> Pairs:
    """What there is in full."""
    there = [(a, b) for a, b in both if a is not None and b is not None]
    return Pairs([a for a, _ in there], [b for _, b in there], len(both))


def columns(aim: str) -> list[str]:
    """All that is judged: the objective first, what guards it next."""
    return list(dict.fromkeys((aim, *GUARDS[aim], *DIGITS)))


def minutes(found: Mapping[str, Any]) -> float:
    """CPU-minutes of a study."""
    return 60 * found["cpu_hours"]


def mean(numbers: Sequence[Figure]) -> Figure:
    """The mean of the numbers that are there; None without any."""
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else None


def spell(figure: Figure, digits: int, *, sign: str = "") -> str:
    """A figure with its digits, or a dash."""
    return NOTHING if figure is None else f"{figure:{sign}.{digits}f}"


def won(pairs: Pairs, aim: str) -> str:
    """In how many seeds the first is better; the very same figure is a tie and neither's."""
    gains = pairs.gains()
    count = sum(gain > 0 if aim in HIGHER else gain < 0 for gain in gains)
    ties, lost = gains.count(0), pairs.asked - len(gains)
    return (
        f"{count} of {len(gains)}"
        + (f", {ties} tied" if ties else "")
        + (f", {lost} without figures" if lost else "")
    )


def judged_by(aim: str) -> list[str]:
    """An objective and what guards it, of which one configuration may have more than another: the
    nearest training video is the same for all."""
    return [name for name in (aim, *GUARDS[aim]) if name != "nearest"]


def better(aim: str) -> str:
    """Which way is better."""
    return "higher is better" if aim in HIGHER else "lower is better"
