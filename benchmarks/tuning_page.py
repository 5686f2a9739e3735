"""The recorded study as text: for the terminal, and between two marks of docs/tuning.md.

Held-out test figures come first, validation second: what chose among trials flatters them. A figure
that is not there is a dash, and what it belongs to counts in no mean and in no comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DIGITS = {"unseen-mcs": 2, "unseen-fcs": 4, "unseen": 2, "exchange": 2}
UNITS = {
    "unseen-mcs": "MCS", "unseen-fcs": "FCS, distance to its bound", "unseen": "PSNR, dB",
    "exchange": "PSNR of recombined cells, dB",
}  # fmt: skip
HIGHER = ("unseen", "exchange")
BEGIN, END = "<!-- study: written by benchmarks.tuning -->", "<!-- /study -->"
NOTHING = "-"

Figure = float | None


class Pairs(NamedTuple):
    """Two configurations' figures over seeds, both there."""

    ours: list[float]
    theirs: list[float]
    asked: int
    """Seeds in all."""


def as_text(found: Mapping[str, Any]) -> str:
    """Everything that was found, as Markdown."""
    parts = (lead, intro, against_given, against_preset, against_chance, values, costs)
    return "\n\n".join(part(found) for part in parts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mean(numbers: Sequence[Figure]) -> Figure:
    """The mean of the numbers that are there; None without any."""
    there = [number for number in numbers if number is not None]
    return sum(there) / len(there) if there else None


def spell(figure: Figure, digits: int, *, sign: str = "") -> str:
    """A figure with its digits, or a dash."""
    return NOTHING if figure is None else f"{figure:{sign}.{digits}f}"


def pairs_of(both: Sequence[tuple[Figure, Figure]]) -> Pairs:
    """What there is in full."""
    there = [(a, b) for a, b in both if a is not None and b is not None]
    return Pairs([a for a, _ in there], [b for _, b in there], len(both))


def won(pairs: Pairs, aim: str) -> str:
    """In how many seeds the first is better."""
    count = sum(
        a > b if aim in HIGHER else a < b for a, b in zip(pairs.ours, pairs.theirs, strict=True)
    )
    lost = pairs.asked - len(pairs.ours)
    return f"{count} of {len(pairs.ours)}" + (f", {lost} without figures" if lost else "")


def better(aim: str) -> str:
    """Which way is better."""
    return "higher is better" if aim in HIGHER else "lower is better"


def of_compared(found: Mapping[str, Any], judgement: str) -> Pairs:
    """Best and preset over training seeds."""
    aim = found["objective"]
    return pairs_of([
        (row["best"][judgement].get(aim), row["preset"][judgement].get(aim))
        for row in found["compare"]
    ])  # fmt: skip


def of_given(found: Mapping[str, Any], *, test: bool) -> Pairs:
    """Best and first trial, which is the configuration given, of each of optuna's studies."""
    aim = found["objective"]
    studies = [study for name, study in found["studies"].items() if name.startswith("optuna")]
    if test:
        return pairs_of([(s["test"].get(aim), s["given_test"].get(aim)) for s in studies])
    return pairs_of([(s["scores"].get(aim), s["given"]) for s in studies])


def of_chance(found: Mapping[str, Any], part: str) -> Pairs:
    """Optuna's and chance's best trials over the seeds of the studies."""
    aim, all_ = found["objective"], found["studies"]
    seeds = [name.rpartition("-")[2] for name in all_ if name.startswith("optuna")]
    return pairs_of([
        (all_[f"optuna-{seed}"][part].get(aim), all_[f"random-{seed}"][part].get(aim))
        for seed in seeds
    ])  # fmt: skip


def minutes(found: Mapping[str, Any]) -> float:
    """CPU-minutes of a study."""
    return 60 * found["cpu_hours"]


def in_all(found: Mapping[str, Any]) -> str:
    """What the best of the searches has cost: it was chosen among all of optuna's studies."""
    count = sum(name.startswith("optuna") for name in found["studies"])
    studies = "study" if count == 1 else "studies"
    return f"best of {count} {studies}, {count * minutes(found):.0f} CPU-minutes in all"


def lead(found: Mapping[str, Any]) -> str:
    """What counts: means over seeds on cells that neither training nor choice has seen."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    lines = []
    for name, test, validation in (
        (f"best of a study of {minutes(found):.0f} CPU-minutes, its configuration given",
         of_given(found, test=True), of_given(found, test=False)),
        (f"{in_all(found)}; preset",
         of_compared(found, "test"), of_compared(found, "validation")),
        ("optuna, random search", of_chance(found, "test"), of_chance(found, "scores")),
    ):  # fmt: skip
        line: list[str] = [name]
        for pairs in (test, validation):
            means = [spell(mean(side), digits) for side in (pairs.ours, pairs.theirs)]
            line += [", ".join(means), won(pairs, aim)]
        lines.append(line)
    head = ("", "test", "better in", "validation", "better in")
    return (
        f"**Test cells first**, means over seeds of {UNITS[aim]} ({better(aim)}); the validation "
        f"cells, which chose, second:\n\n{table(head, lines)}"
    )


def intro(found: Mapping[str, Any]) -> str:
    """What was done."""
    shared = " ".join(f"`{word}`" for word in found["words"])
    shared = f", and {shared} in all of them" if shared else ""
    aim = UNITS[found["objective"]]
    return (
        f"Weizmann strips, 9 persons x 3 actions, one cell of each person held out: 4 cells choose "
        f"among trials (validation), 5 judge (test). Trials of {found['steps']} steps on one core, "
        f"{minutes(found):.0f} CPU-minutes a study, settings as above and the rates"
        f"{shared}; objective `{found['objective']}` ({aim} of the validation cells), no "
        "halving: training PSNR says little about cells never seen."
    )


def against_given(found: Mapping[str, Any]) -> str:
    """Each study's best trial beside its own first one: what a single search has found."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    lines = [
        [name, study["best"] or NOTHING,
         *(spell(figure, digits) for figure in (
             study["test"].get(aim), study["given_test"].get(aim),
             study["scores"].get(aim), study["given"]))]
        for name, study in found["studies"].items()
    ]  # fmt: skip
    pairs = of_given(found, test=True)
    gains = [a - b for a, b in zip(pairs.ours, pairs.theirs, strict=True)]
    each = ", ".join(f"{gain:+.{digits}f}" for gain in gains) or "no study has both figures"
    head = ("study", "best trial", f"test of its best, {UNITS[aim]}", "of the configuration given",
            "validation of its best", "of the configuration given")  # fmt: skip
    return (
        f"**Against the configuration given**, the first trial of the same study with the same "
        f"training seed, after {minutes(found):.0f} CPU-minutes: optuna "
        f"{spell(mean(gains), digits, sign='+')} {UNITS[aim]} on the test cells ({each}; "
        f"{better(aim)}), better in {won(pairs, aim)}.\n\n{table(head, lines)}"
    )


def against_preset(found: Mapping[str, Any]) -> str:
    """The best of the searches beside the preset, every seed."""
    rows = found["compare"]
    if not rows:
        return ("**Against the preset**: not compared, since in no study of optuna both the "
                "configuration given and a best one were finished.")  # fmt: skip
    names = {"plain": "preset", "preset": "preset", "best": "best"}
    if found["words"]:
        names["preset"] = f"preset, {' '.join(found['words'])}"
    kinds = [kind for kind in names if kind in rows[0]]
    aim, digits = found["objective"], DIGITS[found["objective"]]

    def figures(some: Sequence[Mapping[str, Any]]) -> list[str]:
        test = [spell(mean([row["test"].get(n) for row in some]), DIGITS[n]) for n in DIGITS]
        chosen = mean([row["validation"].get(aim) for row in some])
        seconds, psnr = (mean([row[name] for row in some]) for name in ("seconds", "psnr"))
        return [*test, spell(chosen, digits), spell(psnr, 2), spell(seconds, 0)]

    lines = [
        [row["seed"], names[kind], row[kind]["steps"] or "not finite", *figures([row[kind]])]
        for row in rows for kind in kinds
    ]  # fmt: skip
    for kind in kinds:
        there = [row[kind] for row in rows if row[kind]["steps"]]
        lines.append([f"mean of {len(there)}", names[kind], "", *figures(there)])
    head = ("seed", "configuration", "steps", *(f"test, {UNITS[name]}" for name in DIGITS),
            f"validation, {UNITS[aim]}", "training PSNR", "seconds")  # fmt: skip
    pairs = of_compared(found, "test")
    gains = [a - b for a, b in zip(pairs.ours, pairs.theirs, strict=True)]
    each = ", ".join(f"{gain:+.{digits}f}" for gain in gains) or "no seed has both figures"
    return (
        f"**Against the {names['preset']}** ({in_all(found)}), at no less training time, over "
        f"training seeds that no search has seen: {spell(mean(gains), digits, sign='+')} "
        f"{UNITS[aim]} on the test cells ({each}; {better(aim)}), better in {won(pairs, aim)}.\n\n"
        f"{table(head, lines)}"
    )


def against_chance(found: Mapping[str, Any]) -> str:
    """Optuna beside random search under the same ledger, every study."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    lines = [
        [name, study["trials"], study["done"], f"{study['held'] / 60:.1f}",
         spell(study["test"].get(aim), digits), spell(study["scores"].get(aim), digits),
         spell(study["given"], digits)]
        for name, study in found["studies"].items()
    ]  # fmt: skip
    test, chosen = of_chance(found, "test"), of_chance(found, "scores")
    head = ("study", "trials", "finished", "CPU-minutes", f"test of its best, {UNITS[aim]}",
            "its validation", "validation of the configuration given")  # fmt: skip
    sides = [[spell(mean(side), digits) for side in (pairs.ours, pairs.theirs)]
             for pairs in (test, chosen)]  # fmt: skip
    return (
        f"**Against random search** with the same ledger, {UNITS[aim]} of the best trial on the "
        f"test cells: optuna {sides[0][0]}, random {sides[0][1]} (means; {better(aim)}), better in "
        f"{won(test, aim)}. On the validation cells: {sides[1][0]} and {sides[1][1]}, better in "
        f"{won(chosen, aim)}.\n\n{table(head, lines)}"
    )


def values(found: Mapping[str, Any]) -> str:
    """The best configuration."""
    if not found["winner"]:
        return "**The best configuration**: none to be named."
    best = found["studies"][found["winner"]]["values"]
    told = ", ".join(
        f"`{path}` {value:.3g}" if isinstance(value, float) else f"`{path}` {value}"
        for path, value in best.items()
    )
    return f"**The best configuration** ({found['winner']}): {told}."


def costs(found: Mapping[str, Any]) -> str:
    """Ledger and overhead."""
    errors, alone = found["ledger_intervals"], found["overhead"]
    victims = ", ".join(sorted({kill["victim"] for kill in found["kills"]}))
    ledger = "no search was killed"
    if errors:
        ledger = (
            f"{len(errors)} kills with -9 at random moments ({victims} in turn): charged minus "
            f"held is {min(errors):+.2f} to {max(errors):+.2f} report intervals"
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
        f"s; {among} in the studies above, which evaluate held-out cells after every trial."
    )


def write_page(path: Path, found: Mapping[str, Any]) -> None:
    """Replace what stands between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path}: no {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\n\n{as_text(found)}\n\n{END}{after}")
