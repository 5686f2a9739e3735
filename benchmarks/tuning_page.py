"""The recorded study as text: for the terminal, and between two marks of docs/tuning.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DIGITS = {"unseen-mcs": 2, "unseen-fcs": 4, "unseen": 2, "exchange": 2}
UNITS = {
    "unseen-mcs": "MCS", "unseen-fcs": "FCS, distance to its bound", "unseen": "PSNR, dB",
    "exchange": "PSNR of recombined cells, dB",
}  # fmt: skip
HIGHER = ("unseen", "exchange")
BEGIN, END = "<!-- study: written by benchmarks.tuning -->", "<!-- /study -->"


def as_text(found: Mapping[str, Any]) -> str:
    """Everything that was found, as Markdown."""
    return "\n\n".join((intro(found), against_preset(found), against_chance(found), values(found),
                        costs(found)))  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mean(numbers: Sequence[float]) -> float:
    """The mean of some numbers."""
    return sum(numbers) / len(numbers)


def intro(found: Mapping[str, Any]) -> str:
    """What was done."""
    shared = " ".join(f"`{word}`" for word in found["words"])
    shared = f", and {shared} in all of them" if shared else ""
    aim = UNITS[found["objective"]]
    return (
        f"Weizmann strips, 9 persons x 3 actions, one cell of each person held out: 4 cells choose "
        f"among trials (validation), 5 judge (test). Trials of {found['steps']} steps on one core, "
        f"{60 * found['cpu_hours']:.0f} CPU-minutes a study, settings as above and the rates"
        f"{shared}; objective `{found['objective']}` ({aim} of the validation cells), no "
        "halving: training PSNR says little about cells never seen."
    )


def against_preset(found: Mapping[str, Any]) -> str:
    """The best of the searches beside the preset."""
    rows = found["compare"]
    names = {"plain": "preset", "preset": "preset", "best": "best"}
    if found["words"]:
        names["preset"] = f"preset, {' '.join(found['words'])}"
    kinds = [kind for kind in names if kind in rows[0]]
    aim, digits = found["objective"], DIGITS[found["objective"]]
    columns = [*DIGITS]

    def figures(some: Sequence[Mapping[str, Any]]) -> list[str]:
        test = [mean([row["test"][name] for row in some]) for name in columns]
        told = [f"{value:.{DIGITS[name]}f}" for name, value in zip(columns, test, strict=True)]
        return [
            f"{mean([row['seconds'] for row in some]):.0f}",
            f"{mean([row['psnr'] for row in some]):.2f}",
            f"{mean([row['validation'][aim] for row in some]):.{digits}f}", *told,
        ]  # fmt: skip

    lines = [
        [row["seed"], names[kind], row[kind]["steps"], *figures([row[kind]])]
        for row in rows for kind in kinds
    ]  # fmt: skip
    lines += [["mean", names[kind], "", *figures([row[kind] for row in rows])] for kind in kinds]
    gains = [row["best"]["test"][aim] - row["preset"]["test"][aim] for row in rows]
    head = ("seed", "configuration", "steps", "seconds", "training PSNR",
            f"validation, {UNITS[aim]}", *(f"test, {UNITS[name]}" for name in columns))  # fmt: skip
    each = ", ".join(f"{gain:+.{digits}f}" for gain in gains)
    return (
        f"**Against the {names['preset']}**, at no less training time, over training seeds that no "
        f"search has seen: {mean(gains):+.{digits}f} {UNITS[aim]} on the test cells ("
        f"{each}; {better(aim)}).\n\n{table(head, lines)}"
    )


def better(aim: str) -> str:
    """Which way is better."""
    return "higher is better" if aim in HIGHER else "lower is better"


def against_chance(found: Mapping[str, Any]) -> str:
    """Optuna beside random search under the same ledger."""
    aim, digits = found["objective"], DIGITS[found["objective"]]
    lines = [
        [name, study["trials"], study["done"], f"{study['held'] / 60:.1f}",
         f"{study['given']:.{digits}f}", f"{study['scores'][aim]:.{digits}f}",
         f"{study['test'][aim]:.{digits}f}"]
        for name, study in found["studies"].items()
    ]  # fmt: skip
    of = {
        kind: [s["scores"][aim] for n, s in found["studies"].items() if n.startswith(kind)]
        for kind in ("optuna", "random")
    }
    pairs = list(zip(of["optuna"], of["random"], strict=True))
    won = sum(a > b if aim in HIGHER else a < b for a, b in pairs)
    head = ("study", "trials", "finished", "CPU-minutes", f"first trial, {UNITS[aim]}",
            "best validation", "its test")  # fmt: skip
    return (
        f"**Against random search** with the same ledger: optuna {mean(of['optuna']):.{digits}f}, "
        f"random {mean(of['random']):.{digits}f} (means of the best validation {UNITS[aim]}; "
        f"{better(aim)}), better in {won} of {len(pairs)}.\n\n{table(head, lines)}"
    )


def values(found: Mapping[str, Any]) -> str:
    """The best configuration."""
    best = found["studies"][found["winner"]]["values"]
    told = ", ".join(
        f"`{path}` {value:.3g}" if isinstance(value, float) else f"`{path}` {value}"
        for path, value in best.items()
    )
    return f"**The best configuration** ({found['winner']}): {told}."


def costs(found: Mapping[str, Any]) -> str:
    """Ledger and overhead."""
    errors, overhead = found["ledger_intervals"], found["overhead"]
    known = [study["overhead"] for study in found["studies"].values()]
    studies = [share for share in known if share is not None] or [float("nan")]
    share = float("nan") if overhead["overhead"] is None else overhead["overhead"]
    kinds = sorted({kill["victim"] for kill in found["kills"]})
    return (
        f"**Ledger**: {len(errors)} kills with -9 at random moments ({', '.join(kinds)} in turn): "
        f"charged minus held is {min(errors):+.2f} to {max(errors):+.2f} report intervals.\n\n"
        f"**Overhead**, the share of all cores' time from the search's start to its end in which "
        f"no trial trained: {100 * share:.1f} % with {overhead['trials']} trials "
        f"of {overhead['trained'] / overhead['trials']:.0f} s; "
        f"{100 * min(studies):.1f} to {100 * max(studies):.1f} % in the studies above, which "
        "evaluate held-out cells after every trial."
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
