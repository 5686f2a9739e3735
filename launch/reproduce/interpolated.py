"""What frames between learned ones show: claims about the interpolation, and why they fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from launch.reproduce.context import Claim
from launch.reproduce.footage import FootageSet
from launch.reproduce.over_seeds import compared, shown

Constraint = tuple[int, str]
"""rho (0: none) and scope."""

JUDGED = (10, "clip", "codes")
"""rho, scope and way."""
SEQUENCE = (10, "clip", "sequence")
"""The paper's way (Sec. 4.3.3)."""
FREE = (0, "clip", "codes")
"""Without low rank."""
LOWER = (2, "clip", "sequence")
"""The paper's other rank, in the paper's way."""
REPEATED: tuple[Constraint, ...] = (JUDGED[:2], FREE[:2], LOWER[:2])
"""Constraints that are judged, so they are trained with every seed."""
TRUE = "true neighbours"


class Between(NamedTuple):
    """PSNR over videos, dB, of one data set; lists are by seed."""

    found: Mapping[tuple[int, str, str], Sequence[float]]
    """Frames in between, by rho, scope and way."""
    true: float
    """Blended pixels of the true neighbours."""
    blends: Mapping[Constraint, Sequence[float]]
    """Blended pixels of the neighbours that a training generates."""
    own: Mapping[Constraint, Sequence[float]]
    """Learned frames."""
    steps: Mapping[Constraint, Sequence[int]]
    """Of the trainings."""


def claims_of(footage: FootageSet, between: Between) -> tuple[Claim, ...]:
    """Frames in between against plain blending, in the way fixed beforehand and in the paper's;
    with low rank against without; and a higher rank against a lower one, as the paper has it."""
    found, claims = between.found, []
    for key, name in ((JUDGED, "R's outputs blended"), (SEQUENCE, "the paper's way")):
        text = f"{footage.name}: interpolation ({key[2]}: {name}) above blending true neighbours"
        if key not in found:
            claims.append(Claim(text, None, "this variant was left out"))
            continue
        claims.append(compared(text, found[key], between.true, cause=_why_below(between, key)))
    rho = f"{footage.name}: interpolation with rho = {JUDGED[0]} above"
    claims.append(_ranks(f"{rho} that without low rank", between, JUDGED, FREE))
    text = f"{rho} that with rho = {LOWER[0]}, as in Fig. 7 and 12 (the paper's way)"
    claims.append(_ranks(text, between, SEQUENCE, LOWER))
    return tuple(claims)


def _ranks(
    text: str, between: Between, ours: tuple[int, str, str], other: tuple[int, str, str]
) -> Claim:
    """One rank against another, in the same way of blending."""
    found = between.found
    if not {ours, other} <= found.keys():
        return Claim(text, None, "one of the two was left out")
    own, others = (shown(between.own[key[:2]]) for key in (ours, other))
    steps = " and ".join(f"{np.mean(between.steps[key[:2]]):,.0f}" for key in (ours, other))
    about = f", {ours[2]}; learned frames at {own} dB and {others} dB, after {steps} steps"
    return compared(text, found[ours], found[other], about=about)


def _why_below(between: Between, key: tuple[int, str, str]) -> str:
    """Why frames in between are below blended pixels."""
    value, blend = float(np.mean(between.found[key])), float(np.mean(between.blends[key[:2]]))
    codes = float(np.mean(between.found.get(JUDGED, [0.0])))
    if key != JUDGED and codes > value:
        return (
            "R may not follow steps half as long as those that it was trained on, which is not "
            f"tested; its outputs, blended, give {codes:.2f} dB in the same runs"
        )
    if blend >= between.true:
        return (
            f"not the learned frames, whose own blend is at {blend:.2f} dB: the code in the middle "
            "is not that of the frame in the middle"
        )
    part = ", which explains a part" if value < blend else ""
    return (
        f"the learned frames beside them are at {shown(between.own[key[:2]])} dB themselves, and "
        f"their own blend at {blend:.2f} dB{part}"
    )
