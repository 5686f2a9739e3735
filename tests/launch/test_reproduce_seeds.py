"""Figures over seeds: trained as often as counted, printed with their spread, judged by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from data_shards.errors import UserError
from launch.reproduce import interpolated, trainings
from launch.reproduce.context import Claim, Context, StageResult, Table
from launch.reproduce.fits import Fits, table_of
from launch.reproduce.footage import SYNTHETIC, held_out_folder, read_clips
from launch.reproduce.interpolated import Between
from launch.reproduce.over_seeds import BY_CHANCE, NO_ORDER, TIE, above, by_chance, compared
from launch.reproduce.planner import Plan
from launch.reproduce.shifts import Shifted, best_shift, nearest_window
from launch.reproduce.stages import exchange, interpolation, unseen
from tests.support.training import SMALL
from trainer import render
from trainer.main import main as train
from trainer.run import open_run

pytestmark = pytest.mark.xdist_group("reproduce_seeds")

TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
REAL = replace(TINY, name="real", root="somewhere")
PLAN = Plan(
    None, 2, frames=6, size=32, videos=8, fit_steps=4, classify_steps=2,
    ranks=((10, "clip"), (10, "dictionary")), words=(*SMALL, "train.steps=3"),
)  # fmt: skip
STAGES = {"exchange": exchange, "interpolation": interpolation, "unseen": unseen}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Six synthetic videos, trained with two seeds in this process."""

    def start(module: str, words: list[str], log: Path) -> int:
        return train(words)

    return Context(tmp_path_factory.mktemp("seeds"), (TINY,), PLAN, None, "", start)


@pytest.fixture(scope="module")
def found(context: Context) -> dict[str, tuple[StageResult, set[str]]]:
    """Results of the three stages, with the names of the trainings that each asked for."""
    results = {}
    for name, stage in STAGES.items():
        own = replace(context, asked=set())
        results[name] = (stage.run(own), own.asked)
    return results


def mean_sd(values: Sequence[float], digits: int) -> str:
    """Written out: two decimals or three, and the standard deviation of a sample."""
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def of_seed(names: set[str], seed: int) -> set[str]:
    return {name for name in names if f"-s{seed}-" in name}


def test_every_stage_trains_what_it_counts(found, context: Context) -> None:
    """What is judged is trained with each seed, what is not with one; the planner knows of all."""
    for name, stage in STAGES.items():
        assert len(found[name][1]) == stage.STAGE.trainings(TINY, PLAN)
    twice = {name: sorted(of_seed(asked, 1)) for name, (_, asked) in found.items()}
    assert [len(names) for names in twice.values()] == [1, 1, 1]
    assert twice["interpolation"][0].startswith("synthetic-rank10-clip-s1-")
    assert twice["unseen"][0].startswith("synthetic-seen4-s1-")


def test_seeds_of_a_budget_are_counted() -> None:
    """Three on real footage and one on synthetic footage where a budget says so, and the numbers of
    videos that are not judged once; a set without a matrix has no exchange."""
    plan = Plan(1.0, 3, synthetic_seeds=1, counts=True, grown=(20, 200))
    assert [exchange.count(one, plan) for one in (TINY, REAL)] == [1, 3]
    assert exchange.count(replace(REAL, held_out=0), plan) == 0
    assert [interpolation.count(one, plan) for one in (TINY, REAL)] == [5, 3 * 3 + 2]
    assert [unseen.count(one, plan) for one in (TINY, REAL)] == [3 + 2, 2 + 3]
    every = replace(plan, synthetic_seeds=0)
    assert [stage.count(TINY, every) for stage in STAGES.values()] == [3, 11, 2 + 3 + 2]


def test_exchanged_cells_are_means_over_seeds(found, context: Context) -> None:
    """PSNR and SSIM of a cell against a loop over the seeds' models; labels are printed by seed."""
    table, rated = found["exchange"][0].tables
    runs = [open_run(folder) for folder in trainings.train(context, exchange.wanted(context, TINY))]
    assert len({run.folder for run in runs}) == 2
    truth = read_clips(held_out_folder(Path(runs[0].config.data.manifest)))
    shifted = [
        best_shift(render.render(run, truth.identity_N, truth.action_N)[0], truth.frames_NTHWC[0])
        for run in runs
    ]
    assert table.rows[0][1] == mean_sd([one.psnr for one in shifted], 2)
    assert table.rows[0][2] == mean_sd([one.ssim for one in shifted], 3)
    assert [str(table.rows[0][at]).count(" / ") for at in (5, 6)] == [1, 1]
    assert str(table.rows[-1][-1]).count(" of 1: ") == 2
    assert [str(row[-1]).count(" / ") for row in rated.rows[:2]] == [1, 0]
    assert table.card["seeds"] == "2 (0 to 1); mean ± standard deviation over them"
    assert "with each of 2 seeds" in found["exchange"][0].claims[0].text


def test_cards_say_how_long_and_which_seeds(found, context: Context) -> None:
    """Of each table; a constraint and a number of videos with one seed are named so."""
    (table,) = found["interpolation"][0].tables
    assert table.card["seeds"].endswith("over them; one of rho = 10, dictionary")
    rows = {row[0]: row for row in table.rows}
    assert "±" in rows["rho = 10, clip"][1] and "±" not in rows["rho = 10, dictionary"][1]
    for result, _ in found.values():
        assert all(t.card["length"] == "as the preset says, 3 steps" for t in result.tables)
    plan = replace(PLAN, minutes=1.5, shares={"synthetic": 2.0}, words=tuple(SMALL))
    again = exchange.run(replace(context, plan=plan, out=context.out / "timed", start=quick))
    length = again.tables[0].card["length"]
    assert length.startswith("3.00 minutes each, 3 steps; ") and "must not be compared" in length


def quick(module: str, words: list[str], log: Path) -> int:
    """Three steps, whatever the minutes."""
    kept = [word for word in words if not word.startswith("train.minutes=")]
    return train([*kept, "train.steps=3"])


def test_the_gap_to_the_training_videos_is_printed(found) -> None:
    """PSNR of the training videos less that of the fitted ones, each over seeds."""
    fits = [of_fits([4.0, 6.0], own=30.0), of_fits([5.0, 9.0], own=34.0)]
    (row,) = table_of(REAL, [fits], {}).rows
    line = dict(zip(found["unseen"][0].tables[0].columns, row, strict=True))
    assert line["fitted, dB"] == mean_sd([25.0, 27.0], 2)
    assert line["gap to the training videos, dB"] == mean_sd([5.0, 7.0], 2)
    assert line["fitted above it"] == "2 of 2 / 2 of 2" and line["least gain, dB"] == "+4.00"


def of_fits(gains: Sequence[float], *, own: float = 25.0) -> Fits:
    """Unseen videos so many dB above their nearest training video, at 20 dB."""
    videos = [{"psnr": 20.0 + gain, "nearest_psnr": 20.0} for gain in gains]
    return Fits(8, 9.0, own, SimpleNamespace(facts={"videos": videos}))  # pyright: ignore


@pytest.mark.parametrize(
    ("ours", "theirs", "by", "holds"),
    [
        ([2.0], 1.0, 0, True),
        ([1.0], 1.0, 0, False),
        ([4.0], 1.0, 3, True),
        ([3.9], 1.0, 3, False),
        ([2.0, 3.0], 1.0, 0, None),
        ([2.0, 2.1], 1.0, 0, True),
        ([0.5, 1.9], 1.0, 0, None),
        ([-3.0, -2.9], 1.0, 0, False),
        ([3.5, 4.7], 1.0, 3, None),
        ([2.0], [1.0], 0, None),
        ([2.0, 3.0, 4.0], [1.0], 0, None),
        ([2.0, 2.1], [1.0, 1.1], 0, True),
        ([2.0, 2.1], [4.0, 4.2], 0, False),
        ([2.0, 3.0], [4.0, 5.0], 0, None),
        ([2.0, 3.0], [2.0, 2.2], 0, None),
        ([2.6, 2.7], [2.0, 3.0], 0, None),
    ],
)
def test_differences_within_the_spread_of_seeds_settle_nothing(
    ours: list[float], theirs: list[float] | float, by: float, holds: bool | None
) -> None:
    """Against footage one seed is judged, against another training it is not; several are judged
    where a t-test settles their order."""
    assert above(ours, theirs, by=by) is holds


def test_chance_is_what_a_t_test_says() -> None:
    """Against scipy's own tests, of one group and of two with unequal spread; what was picked out
    of several comparisons needs more."""
    ours, theirs = [5.74, 5.76, 5.78], [5.69, 5.72, 5.75]
    apart = np.mean(ours) - np.mean(theirs)
    welch = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
    assert by_chance(apart, ours, theirs) == pytest.approx(welch) and welch > 0.05
    assert above(ours, theirs) is None
    single = stats.ttest_1samp(ours, 5.7).pvalue
    assert by_chance(np.mean(ours) - 5.7, ours) == pytest.approx(single)
    assert by_chance(0.1, [1.0, 1.0], [0.9, 0.9]) == 0 and by_chance(0.0, [1.0, 1.0]) == 1
    close = [1.0, 1.1, 1.2], [1.3, 1.4, 1.5]
    assert above(*close) is False and above(*close, among=3) is None


def test_a_claim_names_its_seeds() -> None:
    """With one it says so; what is not settled says why, and blames nothing else."""
    assert compared("t", [2.0], 1.0).detail == "2.00 dB against 1.00 dB; one seed"
    alone = compared("t", [24.60], [24.59], cause="c")
    assert alone.holds is None and alone.detail.endswith(f"; {NO_ORDER}") and alone.cause != "c"
    near = compared("t", [1.0, 2.0], [1.1, 1.3], digits=1, unit="", cause="c")
    detail = f"1.5 ± 0.7 against 1.2 ± 0.1; {TIE}"
    assert near == Claim("t", None, detail, BY_CHANCE)
    apart = compared("t", [1.0, 1.1], [5.0, 5.1], cause="c")
    assert (apart.holds, apart.cause) == (False, "c") and apart.detail.endswith("; 2 seeds")


def cells(right: int, psnr: float) -> list[exchange.CellResult]:
    """Six cells, so many of them right, beside training videos at 20 dB."""
    best = Shifted(20.0, 0.5, 0)
    return [
        exchange.CellResult(str(n), Shifted(psnr, 0.6, 0), best, "p", "a", (n < right, True))
        for n in range(6)
    ]


def test_cells_are_right_in_five_of_six_with_each_seed() -> None:
    """The best seed does not make up for another one, and each is printed."""
    for counts, holds in (((5, 6, 5), True), ((6, 6, 4), False)):
        results = [cells(count, 23.0 + number) for number, count in enumerate(counts)]
        right, psnr, _ = exchange.claims_of(REAL, results, (1.0, 1.0), own=30.0)
        assert right.holds is holds
        assert right.detail == " / ".join(f"{c} of 6: person {c}, action 6" for c in counts)
        assert psnr.holds and psnr.detail == (
            "24.00 ± 1.00 dB against 20.00 dB on average; 3 seeds"
        )
    near = [cells(6, psnr) for psnr in (19.5, 21.5)]
    assert exchange.claims_of(REAL, near, (1.0, 1.0), own=30.0)[1].holds is None


def test_the_order_of_ranks_is_judged_over_seeds_alone() -> None:
    """rho = 10 against no low rank and, in the paper's way, against rho = 2."""

    def orders(ours: list[float], other: list[float]) -> list[bool | None]:
        found = {interpolated.JUDGED: ours, interpolated.SEQUENCE: ours,
                 interpolated.FREE: other, interpolated.LOWER: other}  # fmt: skip
        same = {key[:2]: [30.0] for key in found}
        steps = {key[:2]: [1000 * n, 1100 * n] for n, key in enumerate(found, 1)}
        between = Between(found, 21.0, same, same, steps)
        ranks = interpolated.claims_of(REAL, between)[2:]
        assert "after 2,100 and 3,150 steps" in ranks[0].detail
        return [claim.holds for claim in ranks]

    assert orders([24.60], [24.59]) == [None, None] == orders([24.60], [12.0])
    assert orders([24.0, 24.1], [23.0, 23.2]) == [True, True]
    assert orders([23.0, 23.2], [24.0, 24.1]) == [False, False]
    assert orders([23.0, 24.2], [23.4, 24.1]) == [None, None]


def test_unseen_videos_are_above_their_nearest_with_each_seed() -> None:
    """One seed with one video below is enough for a no; the mean is judged over seeds."""
    good, bad = of_fits([4.0, 9.0]), of_fits([-0.5, 13.0])
    assert [c.holds for c in unseen.claims_of(REAL, [good, good])] == [True, True]
    mean, each = unseen.claims_of(REAL, [good, bad])
    assert mean.holds and each.holds is False
    assert each.detail == "2 of 2 / 1 of 2, least -0.50 dB; 2 seeds"
    assert unseen.claims_of(REAL, [of_fits([2.0]), of_fits([4.1])])[0].holds is None


def test_figures_of_different_cards_do_not_enter_a_table(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the seeds' trainings turn out to be of different footage, the stage ends."""
    wanted = exchange.wanted(context, TINY)
    whole = trainings.whole_set(context, TINY)
    mixed = [wanted[0], wanted[1]._replace(data=whole)]
    monkeypatch.setattr(exchange, "wanted", lambda *_: mixed)
    with pytest.raises(UserError, match=r"^figures of different protocol cards cannot be compared"):
        exchange.run(context)


def test_tables_have_as_many_cells_as_columns(found) -> None:
    """In every line of every table."""
    tables: list[Table] = [table for result, _ in found.values() for table in result.tables]
    assert len(tables) == 5
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)


def test_the_nearest_window_is_the_best_of_all_under_their_shifts() -> None:
    """Against a slow look at every video; one that is the same a few frames later is found."""
    rng = np.random.default_rng(0)
    film = rng.integers(0, 256, (14, 8, 8, 3), np.uint8)
    others = rng.integers(0, 256, (5, 8, 8, 8, 3), np.uint8)
    others[3] = film[3:11]
    at, psnr = nearest_window(film[:8], others)
    slow = [best_shift(other, film[:8]).psnr for other in others]
    assert (at, psnr) == (3, 100.0) and slow[3] == 100.0
    at, psnr = nearest_window(film[:8], others[:3])
    assert psnr == pytest.approx(max(slow[:3])) and at == int(np.argmax(slow[:3]))
