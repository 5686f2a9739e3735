"""What the figures of the full model and of its ablations show, and why where they fall short.

An order of trainings holds, or does not, only by more than seeds differ. A cause says no more than
the tables do; where they show none, there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from launch.reproduce.context import Claim, mean_std
from launch.reproduce.figures import BOUND, FROZEN, Figures
from launch.reproduce.footage import FootageSet
from launch.reproduce.over_seeds import LEVEL, ONE, TIE, above, by_chance
from launch.reproduce.variants import MODELS, NEW, OWN, VARIANTS, Rows

NEAR = 0.02
"""Largest distance of FCS to the bound."""
SAME = (
    "l_static is l_rec of one random frame, so on average over frames it is l_rec itself "
    "(docs/model.md): rows that differ by l_static alone differ by chance, and by 1 % of "
    "l_rec's weight"
)
UNTOLD = "training shows none of these pairs, and with rows by video no video shares a code"


def lower(
    ours: Sequence[float], other: Sequence[float], *, among: int = 1
) -> tuple[bool | None, str]:
    """Whether figures of one training are lower than those of another, both over seeds
    (`over_seeds.above`). None with the reason where there is one seed, or where they are no further
    apart than seeds are."""
    holds = above(other, ours, among=among)
    if holds is None:
        return None, ONE if min(len(ours), len(other)) < 2 else TIE
    return holds, ""


def against(
    text: str, ours: Sequence[float], other: Sequence[float], *, digits: int, cause: str = ""
) -> Claim:
    """The claim that figures of one training are lower than those of another (`lower`)."""
    holds, why = lower(ours, other)
    detail = " against ".join(str(mean_std(found, digits=digits)) for found in (ours, other))
    return Claim(text, holds, f"{detail}; {why}" if why else detail, "" if why else cause)


def claims_of(footage: FootageSet, rows: Rows) -> tuple[Claim, ...]:
    """What the full model must show on a data set. Where random videos are training videos, the
    order of the ablation is judged once."""
    several = {name: rows.found[kind] for kind, name in MODELS.items()}
    if rows.random[OWN]:
        several[NEW] = rows.random[OWN]
    bound, still = rows.references[BOUND].fcs, rows.references[FROZEN].mcs
    claims = [_near(footage, rows, name, found) for name, found in several.items()]
    if still is None:
        claims.append(Claim(f"{footage.name}: MCS", None, "no feature network was given"))
    else:
        claims += [_moves(footage, rows, name, found, still) for name, found in several.items()]
    kinds = {"random videos": rows.random, "training videos": rows.found}
    if rows.known:
        del kinds["random videos"]
    for what, found in kinds.items():
        distances = {kind: [abs(f.fcs - bound) for f in found[kind]] for kind in VARIANTS}
        text = f"{footage.name}, {what}: the full model is the closest of the ablation to the FCS "
        claims.append(order(f"{text}bound", distances, rows, digits=4))
        if still is not None:
            values = {kind: [f.mcs or 0.0 for f in found[kind]] for kind in VARIANTS}
            text = f"{footage.name}, {what}: the full model has the lowest MCS of the ablation"
            claims.append(order(text, values, rows, digits=2))
    return tuple(claims)


def passed(margin: float, several: Sequence[float]) -> tuple[bool | None, str]:
    """Whether the mean of a figure over seeds is on the right side of a threshold, in which no
    training has a part, by so much (0 is enough). One seed is judged and said to be one; None with
    the reason where seeds are further apart."""
    if len(several) < 2:
        return margin >= 0, ONE
    if np.ptp(several) and by_chance(margin, several) > LEVEL:
        return None, f"the threshold and the mean are {TIE}"
    return margin >= 0, f"{len(several)} seeds"


def _near(footage: FootageSet, rows: Rows, name: str, found: Sequence[Figures]) -> Claim:
    """FCS is that of the footage, or nearly so."""
    several, bound = [f.fcs for f in found], rows.references[BOUND].fcs
    fcs = float(np.mean(several))
    holds, told = passed(NEAR - abs(fcs - bound), several)
    return Claim(
        f"{footage.name}: FCS of the {name} within {NEAR} of the bound",
        holds,
        f"{mean_std(several)} against {bound:.3f}; {told}",
        "" if holds is None else _why_far(footage, rows, name, below=fcs < bound),
    )


def _moves(
    footage: FootageSet, rows: Rows, name: str, found: Sequence[Figures], still: float
) -> Claim:
    """MCS is far below that of footage that does not move."""
    several = [f.mcs or 0.0 for f in found]
    holds, told = passed(still - 1 - float(np.mean(several)), several)
    quality = f"training videos at {psnr_of(rows, name):.1f} dB"
    return Claim(
        f"{footage.name}: MCS of the {name} at least 1.0 below a frozen first frame",
        holds,
        f"{mean_std(several, digits=2)} against {still:.2f}; {quality}; {told}",
        UNTOLD if name == NEW and holds is not None else "",
    )


def _why_far(footage: FootageSet, rows: Rows, name: str, *, below: bool) -> str:
    """Why frames keep to their first one less (`below`) or more than those of the footage do."""
    if name == NEW:
        return UNTOLD
    psnr, own = psnr_of(rows, name), psnr_of(rows, MODELS[OWN])
    fcs = [f.fcs for f in rows.found[OWN]]
    holds, _ = passed(NEAR - abs(float(np.mean(fcs)) - rows.references[BOUND].fcs), fcs)
    people = footage.root and footage.held_out  # synthetic footage is in phase
    if name != MODELS[OWN] and people and holds and own > psnr + 1:
        return (
            "people share the row of an action and are not in phase, which one motion cannot "
            f"follow; with rows by video it holds, at {own:.1f} dB instead of {psnr:.1f}"
        )
    kept = "less than those of the footage, as" if below else "more than those of the footage, as"
    alike = "noisy ones do" if below else "blurred ones do"
    return f"training videos are at {psnr:.1f} dB; frames keep to the first one {kept} {alike}"


def psnr_of(rows: Rows, name: str) -> float:
    """Mean PSNR of the training videos of one of `MODELS`, by what claims call it, dB; `NEW` is of
    the model with rows by video."""
    kind = next((kind for kind, known in MODELS.items() if known == name), OWN)
    return float(np.mean([f.psnr for f in rows.found[kind] if f.psnr is not None]))


def order(text: str, values: Mapping[str, Sequence[float]], rows: Rows, *, digits: int) -> Claim:
    """Whether the full model has the lowest mean of the ablation's rows; None where it and the best
    of the others are no further apart than seeds are (`lower`)."""
    mean = {name: float(np.mean(values[name])) for name in VARIANTS}
    best, rival = sorted(VARIANTS, key=lambda name: mean[name])[:2]
    rival = rival if best == "full" else "full"
    detail = ", ".join(f"{name}: {mean[name]:.{digits}f}" for name in VARIANTS)
    # The best of the row's rivals was picked by these very figures.
    holds, why = lower(values[best], values[rival], among=len(VARIANTS) - 1)
    alike = {best, rival} == {"full", "+l_triplet -l_static"}
    if holds is None:
        told = f"{best} and {rival} are {why}" if why == TIE else why
        return Claim(text, None, f"{detail}; {told}", SAME if alike and why != ONE else "")
    if best == "full":
        return Claim(text, True, detail)
    psnr = {n: float(np.mean([f.psnr or 0.0 for f in rows.found[n]])) for n in ("full", best)}
    detail += (
        f"; after as many steps training videos are at {psnr['full']:.1f} dB with all losses "
        f"and at {psnr[best]:.1f} dB with {best}"
    )
    worse = psnr["full"] < psnr[best] - 0.1
    cost = "the losses that it adds cost fidelity in so few steps" if worse else ""
    return Claim(text, False, detail, SAME if alike else cost)
