"""PB2: who goes on, who takes over whose weights with which values, and what wins is a config."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import UserError
from tests.support.footage import tiny_set
from tests.tuning.test_search import needs_ray, search
from tests.tuning.test_search import words as line_of
from trainer.changes import parse
from trainer.config import resolve
from trainer.main import main as train
from tuning.ledger import Ledger
from tuning.population import PARTS, WAIT, Point, Population, changing, ends, select
from tuning.records import (
    BUDGET,
    DONE,
    FAILED,
    PART,
    RUNNING,
    Record,
    Settings,
    inherit,
    read_records,
    write_record,
)
from tuning.sampling import Drawn
from tuning.space import space_of, words_of

SPACE = space_of(
    {
        "latents.static": {"low": 4, "high": 64},
        "optim.gamma_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "loss.margin": {"low": 0.5, "high": 2.0},
        "loss.radius": [1, 2],
    }
)
FIRST = {"latents.static": 8, "optim.gamma_rate": 1e-3, "loss.margin": 1.0, "loss.radius": 2}


def settings(size: int, *, objective: str = "psnr") -> Settings:
    return Settings(
        manifest="", words=(), steps=80, rungs=(), objectives=(objective,), workers=1, cpus=1,
        gpus=0, interval=1, seed=0, vgg="", space={}, population=size,
    )  # fmt: skip


def made(records: list[Record], size: int, **more) -> Population:
    return Population(SPACE, settings(size, **more), lambda: records, first=FIRST)


def ended(drawn: Drawn, score: float, *, status: str = "", name: str = "psnr") -> Record:
    """The record of a drawn trial that has come to its end."""
    status = status or (DONE if drawn.until == 80 else PART)
    scores = {} if status == FAILED else {name: score}
    return Record(
        drawn.name, drawn.values, (), status=status, scores=scores, parent=drawn.parent,
        until=drawn.until, changes=drawn.changes,
    )  # fmt: skip


def draw(population: Population) -> Drawn:
    drawn = population.draw()
    assert isinstance(drawn, Drawn)
    return drawn


def test_the_worst_takes_over_the_best_and_all_others_go_on() -> None:
    """Four members over four parts: three go on as they are, the last gets the first one's weights,
    widths and history, and new values for what may change and nothing else."""
    records: list[Record] = []
    for part, until in enumerate(ends(80)):
        before = records[-4:]
        for place in range(4):
            drawn = draw(made(records, 4))
            assert (drawn.until, drawn.name) == (until, f"t{len(records):04d}")
            if not part:
                assert (drawn.parent, drawn.changes) == ("", "")
                assert drawn.values == FIRST or place
            else:
                ranked = sorted(before, key=lambda r: r.scores["psnr"])
                worst, best = ranked[0].id, ranked[-1]
                if before[place].id == worst:
                    assert drawn.parent == best.id
                    lines = parse(drawn.changes)
                    assert lines[:-1] == parse(best.changes) and lines[-1].step == best.until
                    new = dict(lines[-1].values)
                    assert new.keys() == {"optim.gamma_rate", "loss.margin"}
                    assert drawn.values == {**best.values, **new}
                    assert 1e-4 <= new["optim.gamma_rate"] <= 1e-2
                    assert 0.5 <= new["loss.margin"] <= 2
                else:
                    assert drawn.parent == before[place].id
                    assert (drawn.values, drawn.changes) == (
                        before[place].values,
                        before[place].changes,
                    )
            records.append(ended(drawn, 20 + part - (place - part) ** 2 / 10))
    assert made(records, 4).draw() is None
    assert [r.status for r in records[-4:]] == [DONE] * 4 and PARTS == 4


def test_nobody_is_ranked_before_all_of_a_part_have_ended() -> None:
    """Unfinished members are waited for, unless they are lost; failed ones take over others."""
    records: list[Record] = []
    for number in range(3):
        status = {0: PART, 1: RUNNING, 2: PART}[number]
        records.append(ended(draw(made(records, 3)), float(number), status=status))
    population = made(records, 3)
    assert population.draw() is WAIT
    population.tell(records[1])
    first = draw(population)
    assert first.parent == records[2].id  # the lowest of those that have a score
    records[1] = ended(
        Drawn("t0001", records[1].values, until=records[1].until), 0.0, status=FAILED
    )
    second = draw(made([*records, ended(first, 3.0)], 3))
    assert second.parent == records[2].id and second.changes
    nobody = [record._replace(status=FAILED, scores={}) for record in records]
    assert made(nobody, 3).draw() is None
    records[1] = records[1]._replace(status=BUDGET)
    assert made(records, 3).draw() is WAIT


def test_a_removed_folder_costs_a_population_nobody_else() -> None:
    """Neither one that somebody goes on from already, nor one that nobody does yet: the others go
    on, each from its own, and what is gone is not missed or is drawn again."""
    pytest.importorskip("sklearn", reason="scikit-learn: pip install 'navsynth[tune]'")
    records: list[Record] = []

    def go_on(count: int) -> list[str]:
        """Parents of the next trials, each of which does better than all before it."""
        first = len(records)
        for _ in range(count):
            drawn = draw(made(records, 4))
            records.append(ended(drawn, float(drawn.name[1:])))
        return [record.parent for record in records[first:]]

    def remove(name: str) -> None:
        records[:] = [record for record in records if record.id != name]

    assert go_on(6) == ["", "", "", "", "t0003", "t0001"]
    remove("t0001")  # t0005 goes on from it
    assert go_on(6) == ["t0002", "t0003", "t0007", "t0005", "t0006", "t0007"]
    remove("t0009")  # it went on from t0005
    assert go_on(1) == ["t0005"] and records[-1].id == "t0012"
    remove("t0008")  # it took over
    assert go_on(1) == ["t0007"] and records[-1].changes
    remove("t0007")  # two have gone on from it, and nobody will again
    assert go_on(4) == ["t0013", "t0011", "t0012", "t0013"]
    assert made(records, 4).draw() is None


def test_lower_is_better_where_the_objective_says_so() -> None:
    """Bytes: the one that takes the most takes over the one that takes the least."""
    records: list[Record] = []
    for number in range(2):
        drawn = draw(made(records, 2, objective="bytes"))
        records.append(ended(drawn, float(number), name="bytes"))
    assert draw(made(records, 2, objective="bytes")).parent == "t0000"
    again = [*records, ended(draw(made(records, 2, objective="bytes")), 0.0, name="bytes")]
    assert draw(made(again, 2, objective="bytes")).parent == "t0000"


def test_the_bandit_goes_where_gains_are() -> None:
    """Of gains that peak at one value, the choice lies near; inside the range in any case."""
    pytest.importorskip("sklearn", reason="scikit-learn: pip install 'navsynth[tune]'")
    ranges = (changing(SPACE)[1],)
    draws = np.random.default_rng(0).uniform(0.5, 2.0, 40)
    points = sorted(
        Point(20 * (1 + i % 3), 20.0 + i % 3, (float(x),), -((float(x) - 1.6) ** 2))
        for i, x in enumerate(draws)
    )
    (chosen,) = select(points, [], ranges, until=60, before=22.0, seed=0)
    assert 1.3 <= chosen <= 1.9
    assert select(points, [], ranges, until=60, before=22.0, seed=0) == [chosen]
    (other,) = select(points, [(chosen,)], ranges, until=60, before=22.0, seed=0)
    assert 0.5 <= other <= 2.0


def test_the_bandit_sees_beyond_what_is_known() -> None:
    """A population's third part: all that is known began at the end of the first, and the donor is
    later than any of it and better. The choice lies where gains are, wherever the search for it
    begins, and not where it begins."""
    pytest.importorskip("sklearn", reason="scikit-learn: pip install 'navsynth[tune]'")
    ranges = (changing(SPACE)[1],)
    draws = np.random.default_rng(0).uniform(0.5, 2.0, 40)
    points = sorted(
        Point(20, 20.0 + i % 3, (float(x),), -((float(x) - 1.6) ** 2)) for i, x in enumerate(draws)
    )
    for seed in (1, 4):  # begins at 1.13 and at 1.95
        (chosen,) = select(points, [], ranges, until=40, before=23.0, seed=seed)
        assert 1.3 <= chosen <= 1.9


def test_a_choice_at_the_end_of_a_range_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(log(10)) is above 10, and a value outside of its range is in no report."""
    ends = {"low": 0.1, "high": 10.0, "log": True}
    space = space_of({"loss.margin": ends, "optim.theta_rate": ends})
    assert math.exp(math.log(10.0)) > 10.0
    for end in 0.1, 10.0:
        monkeypatch.setattr(Population, "_at_random", lambda *_, end=end: [math.log(end)] * 2)
        population = Population(space, settings(4), lambda: [], first=None)
        record = Record("t0000", {}, (), DONE, until=1, scores={"psnr": 20.0})
        chosen = population._choose(record, [], [])
        assert len(chosen) == 2 and all(0.1 <= value <= 10.0 for value in chosen.values())


def test_a_space_without_anything_that_changes_is_refused() -> None:
    """Widths and choices alone leave nothing to choose on the way."""
    with pytest.raises(UserError, match=r"^--searcher pb2: the space has no range of a setting"):
        changing(space_of({"latents.static": [4, 8], "loss.radius": [1, 2]}))


@pytest.mark.parametrize(
    ("fixed", "searched", "follows"),
    [
        ((), {}, True),
        (("loss.gap=8",), {}, False),
        ((), {"loss.gap": {"low": 8, "high": 9}}, False),
    ],
)
def test_the_gap_follows_a_radius_that_changes(
    fixed: tuple[str, ...], searched: dict, follows: bool
) -> None:
    """As where a trial is drawn: a radius above its parent's gap would be no config at all; one
    that is fixed or searched stays what it is."""
    space = space_of({"loss.radius": {"low": 1, "high": 4}, **searched})
    given = settings(2)._replace(words=fixed)
    records: list[Record] = []
    for number in range(2):
        drawn = draw(Population(space, given, lambda: records, first=None))
        records.append(ended(drawn, float(number)))
    child = draw(Population(space, given, lambda: records, first=None))
    (change,) = parse(child.changes)
    told = dict(change.values)
    assert told["loss.radius"] == child.values["loss.radius"]
    assert ("loss.gap" in told) == (follows or bool(searched))
    if follows:
        assert told["loss.gap"] == told["loss.radius"] and "loss.gap" not in child.values
        words = words_of(space, records[0].values, fixed=fixed)
        resolve(["preset=folder", "data.manifest=any", *words, "train.steps=100",
                 f"train.changes={child.changes}"])  # fmt: skip


def test_a_child_begins_at_its_parents_last_checkpoint(tmp_path: Path) -> None:
    """Copied whole, once; what the child has trained since stays."""
    write_record(tmp_path, Record("t0000", {}, ()))
    child = write_record(tmp_path, Record("t0001", {}, (), parent="t0000"))
    for step in ("step-00000004", "step-00000010"):
        folder = tmp_path / "trials" / "t0000" / "checkpoints" / step
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(step)
    (tmp_path / "trials" / "t0000" / "metrics.jsonl").write_text('{"step": 10}\n')
    inherit(tmp_path, child)
    ours = tmp_path / "trials" / "t0001"
    found = [path.name for path in (ours / "checkpoints").iterdir()]
    assert found == ["step-00000010"] and (ours / "metrics.jsonl").read_text()
    (ours / "metrics.jsonl").write_text("mine")
    inherit(tmp_path, child)
    assert (ours / "metrics.jsonl").read_text() == "mine"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_what_a_population_ends_with_is_a_config(tmp_path: Path) -> None:
    """Two members over four parts in a real search: chains of trials, and best.yaml trains to the
    winner's figure from the beginning, bit for bit."""
    needs_ray()
    pytest.importorskip("sklearn", reason="scikit-learn: pip install 'navsynth[tune]'")
    data = tiny_set(tmp_path / "data", identities=3, actions=2, frames=4, size=32)
    out = tmp_path / "study"
    line = line_of(data, out, "--steps", "12", "--searcher", "pb2", "--population", "2", trials=0)
    driver = search(line)
    told, _ = driver.communicate()
    assert driver.returncode == 0, told
    records = read_records(out)
    assert [r.status for r in records] == [PART] * 6 + [DONE] * 2, told
    assert [r.step for r in records] == [3, 3, 6, 6, 9, 9, 12, 12]
    assert all(r.parent in {x.id for x in records if x.until == r.until - 3} for r in records[2:])
    replaced = [r for r in records[2:] if r.changes != _of(records, r.parent).changes]
    assert len(replaced) == 3
    assert not Ledger(out).account().open()
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert [row["status"] for row in rows] == ["part"] * 6 + ["done"] * 2
    winner = max(records[-2:], key=lambda r: r.scores["psnr"])
    assert train(["--config", str(out / "best.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    again = json.loads((tmp_path / "runs" / f"study-{winner.id}" / "run.json").read_text())
    assert again["final"]["psnr"] == winner.scores["psnr"] and again["step"] == 12


def _of(records: list[Record], name: str) -> Record:
    return next(record for record in records if record.id == name)
