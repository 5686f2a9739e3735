"""The recorded study as text: for the terminal, and between two marks of docs/tuning.md.

Held-out test figures come first, validation second: what chose among trials flatters them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import table
from benchmarks.tuning_costs import costs
from benchmarks.tuning_figures import (
    DIGITS,
    FITTED,
    GUARDS,
    NOTHING,
    UNITS,
    Pairs,
    better,
    columns,
    judged_by,
    mean,
    minutes,
    pairs_of,
    spell,
    won,
)
from trainer.config import resolve
from trainer.schedule import pace
from tuning.records import FIRST

COMPARED = (("best", "preset"), ("longer", "preset"), ("best", "equal"))
"""Kinds of training whose figures are told beside each other."""
AFTER = {"longer": ", trained for as long as the preset"}
BEGIN, END = "<!-- study: written by benchmarks.tuning -->", "<!-- /study -->"


def as_text(found: Mapping[str, Any]) -> str:
    """Everything that was found, as Markdown."""
    parts = (lead, intro, notes, against_given, against_preset, against_chance, values, costs)
    return "\n\n".join(filter(None, (part(found) for part in parts)))


def names_of(found: Mapping[str, Any]) -> dict[str, str]:
    """What each kind of training of the comparison is called, in the order of its rows."""
    best = {"best": "best", "longer": "best, as long as that preset"}
    if not found["words"]:
        return {"preset": "preset", **best}
    return {
        "plain": "preset", "equal": "preset, as long as best",
        "preset": f"preset, {' '.join(found['words'])}", **best,
    }  # fmt: skip


def of_compared(
    found: Mapping[str, Any], name: str, judgement: str, ours: str, theirs: str
) -> Pairs:
    """A figure of two kinds of training over training seeds."""

    def figure(row: Mapping[str, Any], kind: str) -> Any:
        return row.get(kind, {}).get(judgement, {}).get(name)

    return pairs_of([(figure(row, ours), figure(row, theirs)) for row in found["compare"]])


def of_given(found: Mapping[str, Any], name: str, *, test: bool) -> Pairs:
    """A figure of the best and of the first trial, which is the configuration given, of each of
    optuna's studies."""
    studies = [study for key, study in found["studies"].items() if key.startswith("optuna")]
    if test:
        return pairs_of([(s["test"].get(name), s["given_test"].get(name)) for s in studies])
    aim = found["objective"]
    return pairs_of([(s["scores"].get(name), s["given"] if name == aim else None) for s in studies])


def of_chance(found: Mapping[str, Any], name: str, part: str) -> Pairs:
    """A figure of optuna's and of chance's best trials over the seeds of the studies."""
    all_ = found["studies"]
    seeds = [key.rpartition("-")[2] for key in all_ if key.startswith("optuna")]
    return pairs_of([
        (all_[f"optuna-{seed}"][part].get(name), all_[f"random-{seed}"][part].get(name))
        for seed in seeds
    ])  # fmt: skip


def in_all(found: Mapping[str, Any]) -> str:
    """What the best of the searches has cost: it was chosen among all of optuna's studies."""
    count = sum(name.startswith("optuna") for name in found["studies"])
    studies = "study" if count == 1 else "studies"
    return f"best of {count} {studies}, {count * minutes(found):.0f} CPU-minutes in all"


def any_of(found: Mapping[str, Any], kind: str) -> bool:
    """Whether there is a training of a kind; without any, that of the best is told as missing."""
    return kind == "best" or any(kind in row for row in found["compare"])


def lead(found: Mapping[str, Any]) -> str:
    """What counts: means over seeds on cells that neither training nor choice has seen, of the
    objective and of what guards it."""
    lines, names = [], names_of(found)
    for name in judged_by(found["objective"]):
        rows = [
            (f"best of a study of {minutes(found):.0f} CPU-minutes, its configuration given, both "
             "after as many steps",
             of_given(found, name, test=True), of_given(found, name, test=False)),
            *((f"{in_all(found)}{AFTER.get(ours, '')}; {names[theirs]}",
               of_compared(found, name, "test", ours, theirs),
               of_compared(found, name, "validation", ours, theirs))
              for ours, theirs in COMPARED if theirs in names and any_of(found, ours)),
            ("optuna, random search", of_chance(found, name, "test"),
             of_chance(found, name, "scores")),
        ]  # fmt: skip
        for what, *both in rows:
            line = [f"{UNITS[name]} ({better(name)})", what]
            for pairs in both:
                means = [spell(mean(side), DIGITS[name]) for side in (pairs.ours, pairs.theirs)]
                line += [", ".join(means), won(pairs, name)] if pairs.ours else [NOTHING, NOTHING]
            lines.append(line)
    head = ("figure", "of", "test", "better in", "validation", "better in")
    return (
        f"**Test cells first**, means over seeds; the validation cells, which chose by "
        f"{UNITS[found['objective']]}, second:\n\n{table(head, lines)}"
    )


def intro(found: Mapping[str, Any]) -> str:
    """What was done, and how to do it again."""
    shared = " ".join(f"`{word}`" for word in found["words"])
    shared = f", and {shared} in all of them" if shared else ""
    aim = UNITS[found["objective"]]
    searched = f"of `{found['space']}`" if found["space"] else "as above and the rates"
    return (
        f"Weizmann strips, 9 persons x 3 actions, one cell of each person held out: 4 cells choose "
        f"among trials (validation), 5 judge (test). Trials of {found['steps']} steps on one core, "
        f"{minutes(found):.0f} CPU-minutes a study, settings {searched}"
        f"{shared}; objective `{found['objective']}` ({aim} of the validation cells), no "
        f"halving: training PSNR says little about cells never seen. Made by "
        f"`{found['command']}`."
    )


def notes(found: Mapping[str, Any]) -> str:
    """What to know of the searched settings; empty: nothing."""
    if pace(resolve(["preset=weizmann", *found["words"]]).schedule).frames != 1:
        return ""
    return (
        "These trainings draw one frame of each clip, and the static loss of one frame is l_rec "
        "itself: `loss.lambda_static` only multiplies l_rec by 1 + lambda_s, at most 1.1 here. "
        "Adam ignores such a scale, and what is left is lambda_t that counts for as much less: "
        "read nothing into the values found for it."
    )


def against_given(found: Mapping[str, Any]) -> str:
    """Each study's best trial beside its own first one: what a single search has found."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    shown = (aim, *GUARDS[aim])
    lines = []
    for name, study in found["studies"].items():
        tests = (study["test"], study["given_test"])
        seconds = (study.get("best_seconds"), study.get("given_seconds"))
        lines.append([
            name, study["best"] or NOTHING,
            *(spell(test.get(column), DIGITS[column]) for column in shown for test in tests),
            spell(study["scores"].get(aim), digits), spell(study["given"], digits),
            *(spell(each, 0) for each in seconds),
        ])  # fmt: skip
    pairs = of_given(found, aim, test=True)
    each = ", ".join(f"{gain:+.{digits}f}" for gain in pairs.gains()) or "no study has both figures"
    heads = [*(f"test, {UNITS[column]}" for column in shown), "validation", "seconds of training"]
    of = [f"{title}, of {whose}" for title in heads for whose in ("its best", "that given")]
    return (
        f"**Against the configuration given**, the first trial ({FIRST}) of the same study with "
        f"the same training seed and as many steps, after {minutes(found):.0f} CPU-minutes: optuna "
        f"{spell(mean(pairs.gains()), digits, sign='+')} {UNITS[aim]} on the test cells ({each}; "
        f"{better(aim)}), better in {won(pairs, aim)}.\n\n"
        f"{table(('study', 'best trial', *of), lines)}"
    )


def against_preset(found: Mapping[str, Any]) -> str:
    """The best of the searches beside the preset, every seed."""
    rows = found["compare"]
    if not rows:
        return ("**Against the preset**: not compared, since in no study of optuna both the "
                "configuration given and a best one were finished.")  # fmt: skip
    names = {kind: name for kind, name in names_of(found).items() if kind in rows[0]}
    aim = found["objective"]
    lines = [
        [row["seed"], name, row[kind]["steps"] or "not finite", *figures([row[kind]], aim)]
        for row in rows for kind, name in names.items()
    ]  # fmt: skip
    for kind, name in names.items():
        there = [row[kind] for row in rows if row[kind]["steps"]]
        lines.append([f"mean of {len(there)}", name, "", *figures(there, aim)])
    head = ("seed", "configuration", "steps", *(f"test, {UNITS[name]}" for name in columns(aim)),
            f"validation, {UNITS[aim]}", "training PSNR", "seconds")  # fmt: skip
    beside = ""
    if "longer" in names:
        beside = f"; trained for as long as the preset, {gained(found, 'longer', 'preset')}"
    if "equal" in names:
        beside += (
            "; against the preset without those settings, trained for as long as the best, "
            f"{gained(found, 'best', 'equal')}"
        )
    return (
        f"**Against the {names['preset']}** ({in_all(found)}){as_long(rows)}, over training seeds "
        f"that no search has seen: {gained(found, 'best', 'preset')}{beside} "
        f"({better(aim)}).\n\n{table(head, lines)}\n\n{FITTED}"
    )


def as_long(rows: Sequence[Mapping[str, Any]]) -> str:
    """How long the preset has trained beside the best, in words; empty where neither is known."""
    shares = [
        row["preset"]["seconds"] / row["best"]["seconds"]
        for row in rows if row["preset"]["seconds"] and row["best"]["seconds"]
    ]  # fmt: skip
    if not shares:
        return ""
    return f", which trained {min(shares):.2f} to {max(shares):.2f} times as long as the best"


def gained(found: Mapping[str, Any], ours: str, theirs: str) -> str:
    """What one kind of training has more than another on the test cells, in words."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    pairs = of_compared(found, aim, "test", ours, theirs)
    each = ", ".join(f"{gain:+.{digits}f}" for gain in pairs.gains()) or "no seed has both figures"
    return (
        f"{spell(mean(pairs.gains()), digits, sign='+')} {UNITS[aim]} on the test cells ({each}), "
        f"better in {won(pairs, aim)}"
    )


def figures(some: Sequence[Mapping[str, Any]], aim: str) -> list[str]:
    """Means of some trainings of the comparison, spelled, in the order of its columns."""
    test = [spell(mean([row["test"].get(n) for row in some]), DIGITS[n]) for n in columns(aim)]
    chosen = mean([row["validation"].get(aim) for row in some])
    seconds, psnr = (mean([row[name] for row in some]) for name in ("seconds", "psnr"))
    return [*test, spell(chosen, DIGITS[aim]), spell(psnr, 2), spell(seconds, 0)]


def against_chance(found: Mapping[str, Any]) -> str:
    """Optuna beside random search under the same ledger, every study."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    lines = [
        [name, study["trials"], study["done"], f"{study['held'] / 60:.1f}",
         spell(study["test"].get(aim), digits), spell(study["scores"].get(aim), digits),
         spell(study["given"], digits)]
        for name, study in found["studies"].items()
    ]  # fmt: skip
    test, chosen = of_chance(found, aim, "test"), of_chance(found, aim, "scores")
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
