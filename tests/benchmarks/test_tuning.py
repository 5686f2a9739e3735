"""The benchmark of searches: what it keeps, what it promises, and what its page says first."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tuning, tuning_compare, tuning_judging, tuning_stages
from benchmarks.tuning_bench import Bench
from benchmarks.tuning_figures import Pairs, won
from benchmarks.tuning_page import as_text, notes
from tests.support.training import ROOT, environment
from trainer.config import resolve
from tuning import processes
from tuning.ledger import Ledger
from tuning.records import DONE, Record, Settings, settle_settings, write_record
from tuning.space import default_space, load_space, space_of, values_of

AIM = "unseen-mcs"


def asked(out: Path, *more: str) -> argparse.Namespace:
    line = ["--footage", "/f", "--vgg", "/v", "--out", str(out), "--seeds", "2", "--kills", "0"]
    return tuning.parser().parse_intermixed_args([*line, *more])


def figures(mcs: float | None) -> dict[str, float | None]:
    return {AIM: mcs, "unseen-fcs": 0.01, "unseen": 20.0, "exchange": None, "exchange-fcs": None,
            "nearest": 19.5}  # fmt: skip


def study(
    test: float | None, validation: float | None, given: float | None, first: float | None = None
) -> dict[str, Any]:
    """What a search gave; without a validation figure none of its trials was finished. `given` and
    `first`: validation and test of its first trial."""
    done = validation is not None
    return {
        "trials": 4, "done": 3 * done, "held": 120.0, "given": given, "overhead": None,
        "best_seconds": 61.0 if done else None, "given_seconds": 60.0,
        "best": "t0002" if done else None, "scores": {AIM: validation} if done else {},
        "values": {"loss.margin": 0.5} if done else {}, "test": figures(test) if done else {},
        "given_test": {} if given is None else figures(first),
    }  # fmt: skip


def trained(test: float | None, validation: float | None) -> dict[str, Any]:
    """A training of the comparison; without figures it went non-finite."""
    if test is None:
        return {"run": "x", "steps": None, "seconds": None, "psnr": None, "test": {},
                "validation": {}}  # fmt: skip
    return {"run": "x", "steps": 90, "seconds": 60.0, "psnr": 21.0, "test": figures(test),
            "validation": figures(validation)}  # fmt: skip


def found() -> dict[str, Any]:
    return {
        "words": [], "objective": AIM, "command": "python -m this", "steps": 90, "space": "",
        "cpu_hours": 0.1, "winner": "optuna-1",
        "kills": [], "ledger_intervals": [],
        "overhead": {"overhead": 0.12, "trials": 8, "trained": 480.0},
        "studies": {
            "optuna-0": study(3.25, 3.0, 3.5, 3.75), "random-0": study(3.0, 3.1, 3.5, 3.5),
            "optuna-1": study(3.0, 2.5, None), "random-1": study(None, None, None),
        },
        "compare": [
            {"seed": 100, "best": trained(3.0, 2.75), "preset": trained(3.5, 3.25)},
            {"seed": 101, "best": trained(None, None), "preset": trained(3.25, 3.0)},
        ],
    }  # fmt: skip


def test_the_page_leads_with_the_test_cells() -> None:
    """Means over the seeds that have both figures and who is better there, validation second: a
    single study first, and then the best of all, with what all have cost. What has no figure is a
    dash in a row of its own, and counted as such."""
    text = as_text(found())
    first, table = text.split("\n\n")[:2]
    assert first == (
        "**Test cells first**, means over seeds; the validation cells, which chose by MCS of "
        "fitted cells, second:"
    )
    mcs = "| MCS of fitted cells (lower is better) |"
    fcs = "| FCS of fitted cells, distance to its bound (lower is better) |"
    rows = (
        " best of a study of 6 CPU-minutes, its configuration given, both after as many steps |",
        " best of 2 studies, 12 CPU-minutes in all; preset |",
        " optuna, random search |",
    )
    one, same = "1 of 1, 1 without figures", "0.0100, 0.0100 |"
    assert table.splitlines()[2:] == [
        f"{mcs}{rows[0]} 3.25, 3.75 | {one} | 3.00, 3.50 | {one} |",
        f"{mcs}{rows[1]} 3.00, 3.50 | {one} | 2.75, 3.25 | {one} |",
        f"{mcs}{rows[2]} 3.25, 3.00 | 0{one[1:]} | 3.00, 3.10 | {one} |",
        f"{fcs}{rows[0]} {same} 0 of 1, 1 tied, 1 without figures | - | - |",
        f"{fcs}{rows[1]} {same} 0 of 1, 1 tied, 1 without figures | {same} 0 of 1, 1 tied, "
        "1 without figures |",
        f"{fcs}{rows[2]} {same} 0 of 1, 1 tied, 1 without figures | - | - |",
    ]
    assert f"| 101 | best | not finite |{' - |' * 9}" in text
    row = "| 3.00 | 0.0100 | - | - | 19.50 | 20.00 | 2.75 | 21.00 | 60 |"
    assert f"| mean of 1 | best |  {row}" in text
    assert (
        "6 CPU-minutes: optuna -0.50 MCS of fitted cells on the test cells (-0.50; lower is better)"
        in text
    )
    assert "| optuna-0 | t0002 | 3.25 | 3.75 | 0.0100 | 0.0100 | 3.00 | 3.50 | 61 | 60 |" in text
    assert "| optuna-1 | t0002 | 3.00 | - | 0.0100 | - | 2.50 | - | 61 | 60 |" in text
    assert "| random-1 | - | - | - | - | - | - | - | - | 60 |" in text
    assert "cells never seen. Made by `python -m this`." in text
    assert (
        "**Against the preset** (best of 2 studies, 12 CPU-minutes in all), which trained "
        "1.00 to 1.00 times as long as the best, over"
    ) in text
    assert "| random-1 | 4 | 0 | 2.0 | - | - | - |" in text
    assert "| optuna-1 | 4 | 3 | 2.0 | 3.00 | 2.50 | - |" in text
    assert "no search was killed" in text and "12.0 % with 8 trials of 60 s; not known in" in text
    assert "nan" not in text and "None" not in text


def test_a_page_without_anything_to_compare_says_so() -> None:
    """No winner, no comparison, an interrupted overhead without trials: rows and no crash."""
    nothing = {name: study(None, None, None) for name in ("optuna-0", "random-0")}
    bare = {"overhead": None, "trials": 0, "trained": 0.0}
    text = as_text({**found(), "winner": "", "compare": [], "studies": nothing, "overhead": bare})
    assert "| optuna, random search | - | - | - | - |" in text
    assert "**Against the preset**: not compared" in text and "none to be named" in text
    assert "no trial trained: - % with 0 trials of - s" in text


def settings(**more) -> Settings:
    known = Settings(
        manifest="/set", words=("preset=weizmann",), steps=9, rungs=(), objectives=(AIM,),
        workers=1, cpus=1, gpus=0, interval=5, seed=0, vgg="", space={},
    )  # fmt: skip
    return known._replace(**more)


def kept(space) -> dict[str, Any]:
    return {"total": space.total, "ranges": [item._asdict() for item in space.ranges]}


def test_only_the_preset_counts_as_what_was_given(tmp_path: Path) -> None:
    """The first trial's score, if its values are the preset's; where the space has no room for the
    preset the first trial is any other."""
    space = default_space(rates=True)
    preset = values_of(space, resolve(["preset=weizmann"]))
    assert preset is not None
    first = Record("t0000", preset, (), DONE, scores={AIM: 3.5})
    for name, record, score in (
        ("preset", first, 3.5),
        ("other", first._replace(values={**preset, "loss.margin": 3.0}), None),
        ("unfinished", first._replace(status="failed", scores={}), None),
    ):
        settle_settings(tmp_path / name, settings(space=kept(space)))
        write_record(tmp_path / name, record)
        assert tuning_stages.given(tmp_path / name, AIM) == score
    narrow = space_of({"loss.radius": [7, 8]})
    settle_settings(tmp_path / "outside", settings(space=kept(narrow)))
    write_record(tmp_path / "outside", first._replace(values={"loss.radius": 7}))
    assert tuning_stages.given(tmp_path / "outside", AIM) is None


def test_every_judgement_is_in_the_estimate(tmp_path: Path) -> None:
    """Two for each study, of its best trial and its first, with videos fitted where the objective
    is of those; and two for each seed of each configuration compared, always with. The studies get
    what is left."""
    for objective, fit in ((AIM, True), ("exchange", False)):
        for words, kinds in (((), 3), (("schedule.clips=8",), 5)):
            args = asked(tmp_path, "--seeds", "3", "--objective", objective, *words)
            told = tuning_stages.costs(args, 2)
            full = tuning_judging.judge_seconds(fit=True)
            of_study = tuning_judging.judge_seconds(fit=fit)
            assert told["judgements"] == 2 * 2 * 3 * of_study + 2 * 3 * kinds * full
            assert sum(told.values()) == pytest.approx(60 * args.minutes)


def test_a_search_that_gave_up_is_not_kept_as_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 with budget left is Ray lost or trials that fail: the benchmark ends, and goes on
    with the search next time; with the budget spent it is a search without a winner."""
    bench, out = Bench(asked(tmp_path)), tmp_path / "optuna-0"
    out.mkdir()
    ledger = Ledger(out)
    ledger.grant(60)
    monkeypatch.setattr(bench, "python", lambda *words, may: 1)
    with pytest.raises(SystemExit, match="optuna-0: ended with 60 accelerator-seconds left; see"):
        tuning_stages.searched(bench, "data", out)
    assert ledger.hold("a", trial="t0000", width=1, until=58)
    monkeypatch.setattr(tuning_stages, "given", lambda study, objective: None)
    assert tuning_stages.searched(bench, "data", out)["best"] is None


def test_the_documented_command_bears_thirty_minutes_a_study(tmp_path: Path) -> None:
    """The command in docs/tuning.md, run on two cores, gives each of its six studies 30 CPU-minutes
    of the time that it names; its page prints this very command."""
    text = (ROOT / "docs" / "tuning.md").read_text()
    line = re.search(r"```\n(python -m benchmarks\.tuning .*?)\n```", text, flags=re.S)
    assert line is not None
    words = line[1].replace("\\\n", " ").split()
    args = tuning.parser().parse_intermixed_args(words[3:])
    assert (args.objective, args.words, args.seeds) == ("unseen", [], 3)
    space = load_space(str(ROOT / args.space))
    assert values_of(space, resolve(["preset=weizmann"])) is not None  # its first trial
    share = tuning_stages.costs(args, 2)["studies"] / 6 - tuning_stages.START_SECONDS
    assert f"{share * 2 / 60:.1f}" == "30.0"
    assert tuning.command_of(args) == " ".join(words)
    args.words = ["networks.channels=32"]
    assert tuning.command_of(args).endswith(" --write docs/tuning.md networks.channels=32")


def test_a_space_is_searched_and_named(tmp_path: Path) -> None:
    """`--space` takes the place of priors and rates in the studies, and the page names it; kills
    and overhead, whose words it may search, go without."""
    bench = Bench(asked(tmp_path / "b", "--space", "some.yaml"))
    line = partial(tuning_stages.search_line, bench, "data", Path("study"))
    assert "--rates" in line("networks.channels=16")
    assert "--rates" not in line("--space", "some.yaml")
    assert "settings as above and the rates; objective" in as_text(found())
    assert "settings of `some.yaml`; objective" in as_text({**found(), "space": "some.yaml"})


def test_settings_that_all_share_are_named_and_the_bare_preset_trains_as_long() -> None:
    """The rows of the page say which preset, and the one without the settings stands there twice:
    as it is, and at the seconds of the best."""
    known = found()
    for row in known["compare"]:
        row["plain"], row["equal"] = trained(2.5, 2.25), trained(3.25, 3.0)
    text = as_text({**known, "words": ["schedule.clips=4"]})
    table = text.split("\n\n")[1].splitlines()
    start = (
        "| MCS of fitted cells (lower is better) | best of 2 studies, 12 CPU-minutes in all; "
        "preset, "
    )
    assert table[3].startswith(f"{start}schedule.clips=4 | 3.00, 3.50 |")
    assert table[4].startswith(f"{start}as long as best | 3.00, 3.25 | 1 of 1, 1 without figures |")
    assert "**Against the preset, schedule.clips=4** (best of" in text
    told = "trained for as long as the best, -0.25 MCS of fitted cells on the test cells (-0.25), "
    assert f"{told}better in" in text
    for name in ("preset", "preset, as long as best", "preset, schedule.clips=4", "best"):
        assert text.count(f"| 100 | {name} |") == text.count(f"| {name} |  |") == 1


@pytest.mark.parametrize(("seconds", "steps"), [(30.0, 45), (60.5, 90), (90.0, 135)])
def test_a_preset_without_the_shared_settings_trains_as_long_as_the_best(
    seconds: float, steps: int
) -> None:
    """Fewer steps where the best was quicker, more where it was slower, and the training that is
    there already where both took as long."""
    asked: list[tuple[str, int]] = []

    def train(kind: str, steps: int, name: str) -> dict[str, Any]:
        asked.append((kind, steps))
        return {"run": name, "steps": steps, "seconds": 60.0, "psnr": 21.0}

    plain = {"run": "plain-100", "steps": 90, "seconds": 60.0, "psnr": 20.0}
    row = {"best": {"seconds": seconds}, "plain": {**plain, "test": {}}}
    made = tuning_compare.as_long(train, row, kind="equal", name="equal-100")
    if steps == 90:
        assert made == plain and not asked
    else:
        assert (made["run"], made["steps"], asked) == ("equal-100", steps, [("plain", steps)])


def test_a_winner_that_was_quicker_trains_as_long_as_the_preset() -> None:
    """As many more steps as the preset took longer; and the page tells both, each beside the
    preset."""
    asked: list[tuple[str, int, str]] = []

    def train(kind: str, steps: int, name: str) -> dict[str, Any]:
        asked.append((kind, steps, name))
        return {"run": name, "steps": steps, "seconds": 60.0, "psnr": 21.0}

    row = {"best": {"run": "best-100", "steps": 90, "seconds": 40.0, "psnr": 20.0},
           "preset": {"seconds": 60.0}}  # fmt: skip
    made = tuning_compare.as_long(train, row, kind="longer", name="longer-100")
    assert asked == [("best", 135, "longer-100")] and made["steps"] == 135
    known = found()
    for one in known["compare"]:
        one["longer"] = trained(2.5, 2.25)
    text = as_text(known)
    table = text.split("\n\n")[1].splitlines()
    assert table[4].startswith(
        "| MCS of fitted cells (lower is better) | best of 2 studies, 12 CPU-minutes in all, "
        "trained for as long as the preset; preset | 2.50, 3.38 | 2 of 2 | 2.25, 3.12 | 2 of 2 |"
    )
    assert "; trained for as long as the preset, -0.88 MCS of fitted cells on the test" in text
    assert text.count("| best, as long as that preset |") == 3


def test_the_same_figure_is_a_tie() -> None:
    """It counts for neither side, and is told."""
    assert won(Pairs([1.0, 2.0, 3.0], [1.0, 1.0, 4.0], 4), "exchange") == (
        "1 of 3, 1 tied, 1 without figures"
    )
    assert won(Pairs([1.0], [2.0], 1), "unseen-mcs") == "1 of 1"


def test_a_weight_that_does_nothing_is_told() -> None:
    """lambda_s with one frame a clip, as the preset has it; not with more frames."""
    assert "`loss.lambda_static` only multiplies l_rec" in notes(found()) in as_text(found())
    assert notes({**found(), "words": ["schedule.frames=2"]}) == ""


def test_a_sitting_ends_after_a_stage_and_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """`--until` and `--write` may differ; any other option makes it another benchmark."""
    made: list[str] = []

    def stage(name: str):
        def make(bench: Bench, found: dict) -> dict:
            return {name: bench.once(name, lambda: made.append(name) or name)}

        return make

    names = ["prepare", "calibrate", "compare"]
    monkeypatch.setattr(tuning, "STAGES", {name: stage(name) for name in names})
    monkeypatch.setattr(tuning, "as_text", lambda found: "the page")
    line = ["--footage", "/f", "--vgg", "/v", "--out", str(tmp_path)]
    assert tuning.main([*line, "--until", "calibrate"]) == 0
    told = capsys.readouterr().out
    assert made == names[:2] and "the page" not in told
    assert told.endswith("ended after calibrate; the same command without --until goes on\n")
    assert tuning.main(line) == 0
    told = capsys.readouterr().out
    assert made == names and "the page" in told
    assert json.loads(told.splitlines()[-1])["compare"] == "compare"
    with pytest.raises(SystemExit, match="holds figures of other settings"):
        tuning.main([*line, "--seeds", "2"])


def test_an_interruption_costs_one_judgement_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in the third of eight: the next sitting trains nothing again and judges the rest."""
    calls: list[str] = []
    ends = {2}

    def train(bench: Bench, name: str, *words: str) -> dict[str, Any]:
        calls.append(name)
        return {"steps": 90, "seconds": 60.0, "psnr": 21.0}

    def judge(bench: Bench, run: Path, cells: str | None, *, fit: bool) -> dict[str, float | None]:
        judged = sum(call.startswith("judge") for call in calls)
        if judged in ends:
            ends.clear()
            raise SystemExit("killed")
        calls.append(f"judge {run.name} {cells or 'validation'}")
        return figures(3.0)

    monkeypatch.setattr(tuning_compare, "trained", train)
    monkeypatch.setattr(tuning_compare, "judged", judge)
    known = {"sets": {"data": "data", "test": "test"}, "steps": 90, "winner": "optuna-0"}
    with pytest.raises(SystemExit, match="killed"):
        tuning_compare.compare(Bench(asked(tmp_path)), known)
    rows = tuning_compare.compare(Bench(asked(tmp_path)), known)["compare"]
    kinds = [f"{kind}-{seed}" for seed in (100, 101) for kind in ("best", "preset")]
    assert sorted(calls[:4]) == sorted(kinds)
    assert calls[4:] == [f"judge {kind} {where}" for kind in kinds
                         for where in ("test", "validation")]  # fmt: skip
    assert [row["best"]["test"] for row in rows] == [figures(3.0)] * 2


def test_each_study_is_judged_beside_its_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the test cells, once; not where the first trial is the best, or is not what was given. A
    state of before, in which the best ones are judged already, is gone on with. Both searchers of a
    seed have the same command line but for their names: space, budget, seed and all."""
    searches: list[str] = []
    lines: list[tuple[str, ...]] = []
    judgements: list[str] = []
    space = str(tmp_path / "some.yaml")

    def search(bench: Bench, data: str, out: Path, *words: str) -> dict[str, Any]:
        searches.append(out.name)
        lines.append(tuple(tuning_stages.search_line(bench, data, Path("study"), *words)))
        best, given = {"optuna-0": ("t0002", 3.5), "random-0": ("t0000", 3.5),
                       "optuna-1": ("t0000", None), "random-1": (None, None)}[out.name]  # fmt: skip
        return {"best": best, "given": given, "scores": {AIM: 3.0} if best else {}, "values": {}}

    def judge(bench: Bench, run: Path, cells: str | None, *, fit: bool) -> dict[str, float | None]:
        assert fit
        judgements.append(f"{run.parent.parent.name} {run.name} {cells}")
        return figures(float(len(judgements)))

    monkeypatch.setattr(tuning_stages, "searched", search)
    monkeypatch.setattr(tuning_stages, "judged", judge)
    known = {"sets": {"data": "data", "test": "test"}, "steps": 90}
    bench = Bench(asked(tmp_path, "--space", space))
    bench.once("optuna-0", lambda: search(bench, "data", tmp_path / "optuna-0"))
    bench.once("optuna-0-test", lambda: figures(3.25))
    made = tuning_stages.studies(bench, known)["studies"]
    assert searches == ["optuna-0", "random-0", "optuna-1", "random-1"]
    assert judgements == ["optuna-0 t0000 test", "random-0 t0000 test", "optuna-1 t0000 test"]
    assert [word for word in lines[2] if word != "optuna"] == [
        word for word in lines[3] if word != "random"
    ]
    assert lines[2][lines[2].index("--searcher") + 1] == "optuna" and "--rates" not in lines[2]
    assert lines[2][lines[2].index("--space") + 1] == space
    assert made["optuna-0"]["test"] == figures(3.25)
    assert made["optuna-0"]["given_test"] == figures(1.0)
    assert made["random-0"]["given_test"] == made["random-0"]["test"] == figures(2.0)
    for name in ("optuna-1", "random-1"):
        assert made[name]["given_test"] == {}
    again = tuning_stages.studies(Bench(asked(tmp_path, "--space", space)), known)["studies"]
    assert again == made and (len(searches), len(judgements)) == (4, 3)


def test_an_interrupted_overhead_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that was begun before says nothing of a whole one's time: it begins anew."""
    begun: list[bool] = []

    def search(bench: Bench, data: str, out: Path, *words: str) -> dict[str, Any]:
        begun.append(out.exists())
        Ledger(out).grant(10)
        if len(begun) == 1:
            raise SystemExit("killed")
        return {"overhead": 0.1}

    monkeypatch.setattr(tuning_stages, "searched", search)
    known = {"sets": {"data": "data"}, "steps": 9}
    with pytest.raises(SystemExit, match="killed"):
        tuning_stages.overhead(Bench(asked(tmp_path)), known)
    again = tuning_stages.overhead(Bench(asked(tmp_path)), known)
    assert again == {"overhead": {"overhead": 0.1}} and begun == [False, False]
    assert tuning_stages.overhead(Bench(asked(tmp_path)), known) == again and len(begun) == 2


def test_a_judgement_leaves_a_trials_evaluation_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the judgement before it was interrupted; a figure that is missing is none."""
    file = tmp_path / "run" / "evaluation.json"
    file.parent.mkdir()
    file.write_text('{"mine": 1}')
    score = {"name": "PSNR, unseen", "value": 20.5, "distance": None}
    cells = {"psnr": 18.0, "nearest_psnr": 17.0, "fcs": 0.75, "fcs_bound": 1.0}
    bench = Bench(asked(tmp_path / "out"))

    def evaluate(*words: str) -> int:
        file.write_text(json.dumps({"scores": [score], "held_out": cells}))
        return 0

    def killed(*words: str) -> int:
        evaluate(*words)
        raise SystemExit("killed")

    monkeypatch.setattr(bench, "python", killed)
    with pytest.raises(SystemExit, match="killed"):
        tuning_judging.judged(bench, file.parent, None, fit=True)
    monkeypatch.setattr(bench, "python", evaluate)
    expected = {AIM: None, "unseen-fcs": None, "unseen": 20.5, "exchange": 18.0,
                "exchange-fcs": 0.25, "nearest": 17.0}  # fmt: skip
    assert tuning_judging.judged(bench, file.parent, None, fit=True) == expected
    cells = None
    nothing = {"exchange": None, "exchange-fcs": None, "nearest": None}
    assert tuning_judging.judged(bench, file.parent, None, fit=True) == {**expected, **nothing}
    assert file.read_text() == '{"mine": 1}'


RUNS = """
import argparse, sys
from functools import partial
from pathlib import Path
from benchmarks.tuning_bench import Bench
Bench(argparse.Namespace(out=Path(sys.argv[1]), vgg=Path("vgg"))).python("waiting")
"""
WAITING = """
import os, signal
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="following a parent: needs Linux's prctl")
def test_a_killed_benchmark_takes_along_what_it_runs(tmp_path: Path) -> None:
    """kill -9 of the benchmark: the program that it was running is asked to stop, and ends."""
    (tmp_path / "waiting.py").write_text(WAITING)
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(tmp_path)])
    log = tmp_path / "out" / "log"
    with subprocess.Popen([sys.executable, "-c", RUNS, str(tmp_path / "out")], env=env) as bench:
        end = time.monotonic() + 60
        while not (log.is_file() and re.fullmatch(r"\d+\n", log.read_text())):
            assert time.monotonic() < end and bench.poll() is None
            time.sleep(0.05)
        known = processes.process(int(log.read_text()))
        assert known is not None
        bench.send_signal(signal.SIGKILL)
    while processes.alive(known):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not processes.alive(known)
