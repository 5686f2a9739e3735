"""What the recorded study says of what searches cost: the ledger's error, and time not trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.tuning_figures import spell
from benchmarks.tuning_kills import INTERVAL


def costs(found: Mapping[str, Any]) -> str:
    """Ledger and overhead."""
    errors, alone = found["ledger_intervals"], found["overhead"]
    victims = ", ".join(sorted({kill["victim"] for kill in found["kills"]}))
    ledger = "no search was killed"
    if errors:
        ledger = (
            f"{len(errors)} kills with -9, each 0 to {2 * INTERVAL:g} s after a training has taken "
            f"its first steps ({victims} in turn, one trial at a time): charged minus held is "
            f"{min(errors):+.2f} to {max(errors):+.2f} report intervals"
        )
    known = [study["overhead"] for study in found["studies"].values()]
    shares = [share for share in known if share is not None]
    lost = len(known) - len(shares)
    among = f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if shares else "not known"
    among += f" ({lost} went on after an interruption: not known)" if shares and lost else ""
    each = alone["trained"] / alone["trials"] if alone["trials"] else None
    share = None if alone["overhead"] is None else 100 * alone["overhead"]
    return (
        f"**Ledger**: {ledger}.\n\n"
        f"**Overhead**, the share of all cores' time from the search's start to its end in which "
        f"no trial trained: {spell(share, 1)} % with {alone['trials']} trials of {spell(each, 0)} "
        f"s; {among} in the studies above, which evaluate held-out cells after every trial"
        f"{lasting(found['studies'].values())}."
    )


def lasting(studies: Iterable[Mapping[str, Any]]) -> str:
    """How long trials of studies have trained, in words; empty where nobody knows."""
    means = [s["trained"] / s["trials"] for s in studies if s.get("trained") and s["trials"]]
    if not means:
        return ""
    return f", of {min(means):.0f} to {max(means):.0f} s each"
